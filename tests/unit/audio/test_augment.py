from dataclasses import replace

import numpy as np
import pytest

from pydreaming.audio.augment import NOISE_SPAN_DB, Augment
from pydreaming.audio.features import FeatureStats, FrontEnd
from pydreaming.config import load_config

CONFIG = replace(load_config(["defaults"]).augment, probability=1.0)
FEATURES = load_config(["defaults"]).features


def noise(num_samples=200_000):
    return (np.random.default_rng(0).standard_normal(num_samples) * 0.1).astype(np.float32)


def samples_of(augment, samples):
    return np.concatenate(list(augment.samples([samples])))


def frames_of(augment, frames, frame_rate=100.0):
    return np.concatenate(list(augment.frames([frames], frame_rate)))


def test_the_same_seed_item_and_pass_sound_the_same_and_others_do_not():
    def drawn(seed, item, number):
        return samples_of(Augment(CONFIG, seed).of(item, number), noise(1000))

    np.testing.assert_array_equal(drawn(1, 2, 3), drawn(1, 2, 3))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not np.array_equal(drawn(1, 2, 3), drawn(*other))


def test_probability_is_the_share_of_items_and_is_drawn_anew_in_each_pass():
    augment = Augment(replace(CONFIG, probability=0.3), seed=0)
    chosen = np.array([[augment.of(item, number) is not None for item in range(1000)] for number in range(2)])
    assert abs(chosen.mean() - 0.3) < 0.05
    assert not np.array_equal(chosen[0], chosen[1])
    assert all(Augment(replace(CONFIG, probability=0.0), 0).of(item, 0) is None for item in range(100))


def test_gain_stays_in_its_range():
    gains = 20 * np.log10([Augment(CONFIG, 0).of(item, 0).gain for item in range(300)])
    assert -6 <= gains.min() < -5
    assert 5 < gains.max() <= 6


def test_noise_has_the_drawn_ratio():
    ratios = []
    for item in range(20):
        augment = Augment(replace(CONFIG, gain_db=0.0), 0).of(item, 0)
        added = samples_of(augment, noise()) - noise()
        assert abs(10 * np.log10(np.square(noise()).mean() / np.square(added).mean()) - augment.snr_db) < 0.1
        ratios.append(augment.snr_db)
    assert min(ratios) >= CONFIG.noise_db
    assert max(ratios) <= CONFIG.noise_db + NOISE_SPAN_DB


def test_noise_leaves_silence_silent_and_can_be_turned_off():
    assert not samples_of(Augment(CONFIG, 0).of(0, 0), np.zeros(1000, np.float32)).any()
    quiet = Augment(replace(CONFIG, noise_db=0.0, gain_db=0.0), 0).of(0, 0)
    np.testing.assert_array_equal(samples_of(quiet, noise()), noise())


def test_masks_set_bands_and_times_to_the_mean():
    widest_band, widest_time = 0, 0
    for item in range(60):
        masked = frames_of(Augment(CONFIG, 0).of(item, 0), np.ones((1000, 64), np.float32)) == 0
        bands, times = masked.all(axis=0), masked.all(axis=1)
        np.testing.assert_array_equal(masked, bands[None, :] | times[:, None])
        widest_band = max(widest_band, int(bands.sum()))
        widest_time = max(widest_time, int(times.reshape(10, 100).sum(axis=1).max()))
    assert (widest_band, widest_time) == (CONFIG.freq_mask, CONFIG.time_mask)


def test_masks_can_be_turned_off_and_leave_the_input_alone():
    frames = np.ones((1000, 64), np.float32)
    assert frames_of(Augment(replace(CONFIG, freq_mask=0, time_mask=0), 0).of(0, 0), frames).all()
    frames_of(Augment(CONFIG, 0).of(0, 0), frames)
    assert frames.all()


def test_masks_wider_than_the_features():
    everything = Augment(replace(CONFIG, freq_mask=10_000, time_mask=10_000), 0)
    assert all(np.isfinite(frames_of(everything.of(item, 0), np.ones((10, 4), np.float32), 5.0)).all() for item in range(50))


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_the_front_end_augments_its_tokens(rate):
    front_end = FrontEnd(FEATURES, FeatureStats([-3.0] * 64, [2.0] * 64, 1))
    plain = np.concatenate(list(front_end.tokens([noise()], rate)))
    augmented = np.concatenate(list(front_end.tokens([noise()], rate, Augment(CONFIG, 0).of(0, 0))))
    assert augmented.shape == plain.shape
    assert np.isfinite(augmented).all()
    assert not np.array_equal(augmented, plain)
