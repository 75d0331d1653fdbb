import numpy as np
import pytest

from pydreaming.audio.decode import decode
from pydreaming.audio.encode import write_wav


def test_write_wav_is_read_back_and_clipped(tmp_path):
    path = tmp_path / "x.wav"
    write_wav(path, np.array([0.0, 0.5, -0.5, 1.5, -1.5]), 8000)
    samples, rate = decode(path)
    assert rate == 8000
    np.testing.assert_array_equal(samples, np.array([0, 0.5, -0.5, 32767 / 32768, -1], dtype=np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]
    for wrong in (np.zeros((2, 2)), np.array([np.nan])):
        with pytest.raises(ValueError, match="samples must be"):
            write_wav(path, wrong, 8000)
