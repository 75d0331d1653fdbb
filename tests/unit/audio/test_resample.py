import numpy as np
import pytest
import torch
import torchaudio

from pydreaming.audio.resample import Resampler, resampled_length


def convert(samples, orig, new):
    return np.concatenate(list(Resampler(orig, new).stream([samples])))


@pytest.mark.parametrize(
    ("orig", "new"),
    [(44_100, 16_000), (48_000, 16_000), (8_000, 16_000), (22_050, 16_000), (16_000, 44_100), (96_000, 8_000), (1_000, 16_000),
     (768_000, 16_000), (44_100, 48_000), (521, 257), (997, 1009)],
)  # fmt: skip
@pytest.mark.parametrize("num_samples", [1, 7, 1000, 100_003])
def test_the_result_is_torchaudios(orig, new, num_samples):
    samples = (np.random.default_rng(num_samples).standard_normal(num_samples) * 0.3).astype(np.float32)
    expected = torchaudio.functional.resample(torch.from_numpy(samples).double(), orig, new).numpy()
    result = convert(samples, orig, new)
    assert len(result) == resampled_length(num_samples, orig, new)
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_coprime_rates_agree_with_torchaudio_and_stay_small():
    # torchaudio's kernel for 16,001 -> 16,007 Hz takes two gigabytes: compare with the same filter evaluated directly
    orig, new = 16_001, 16_007
    samples = (np.random.default_rng(0).standard_normal(3000) * 0.3).astype(np.float64)
    outputs = np.array([0, 1, 500, 1999, 2999])
    distance = (np.arange(3000)[None, :] - outputs[:, None] * orig / new) * 0.99
    weights = np.sinc(distance) * np.cos(np.pi / 12 * np.clip(distance, -6, 6)) ** 2 * 0.99
    expected = (weights * (np.abs(distance) < 6)) @ samples
    np.testing.assert_allclose(convert(samples.astype(np.float32), orig, new)[outputs], expected, atol=2e-6)


def test_the_same_rate_passes_through():
    samples = np.arange(10, dtype=np.float32)
    assert convert(samples, 16_000, 16_000) is not None
    np.testing.assert_array_equal(convert(samples, 16_000, 16_000), samples)


def test_memory_of_a_stream_is_bounded():
    held = []

    def chunks():
        for _ in range(200):
            yield np.zeros(44_100, dtype=np.float32)

    for part in Resampler(44_100, 16_000).stream(chunks()):
        held.append(part.nbytes)
    assert sum(held) == 4 * 16_000 * 200
    assert max(held) < 4 * 20_000
