"""Names that users choose from, apart from the code behind them: `pydreaming embed --help` must not wait for torch."""

from __future__ import annotations

SCENE = "scene"
PARTS: dict[str, str] = {
    "feat": "deter and stoch side by side",
    "deter": "deterministic state, all that was heard up to the window",
    "stoch": "latent state: the probabilities of each code of the window (the means, where latents are Gaussian)",
    "code": "the window's code itself, one-hot per group (the sampled values, where latents are Gaussian)",
    "embed": "encoder's view of the window alone",
    SCENE: "who and where, not what: one vector for each clip or moment (not window), from the level and spread of its bands; no --pooling",
}
POOLINGS: dict[str, str] = {
    "mean": "mean over the windows, width D",
    "mean_std_max": "mean, standard deviation and maximum, width 3 D",
    "thirds": "means over the three thirds of the recording, and standard deviation, width 4 D",
    "evaluation": "what the evaluation's figures are made of, and the best vector to tell clips by: thirds, of the recording and (where the"
    "\n                model was trained with augment.centre) of the recording without its mean per mel band, width 8 D (else 4 D)",
}
PER: dict[str, str] = {
    "clip": "one row a recording",
    "moment": "one row for each stretch of --moment seconds, hopped by half, each heard by itself like a clip",
    "window": "one row a window of the model (a token, such as 40 ms), with all that was heard before it",
}
OUTPUTS: dict[str, str] = {
    "embed": "a vector a recording: row, windows, covered_s, embedding",
    "windows": "a vector a window: row, window, start_s, centre_s, embedding",
    "surprise": "bits a window: row, window, start_s, centre_s, kl_bits, prior_entropy_bits, nll_bits",
}
CURVES: dict[str, str] = {
    "kl": "what hearing the window changed about what was expected of it: surprise proper",
    "prior_entropy": "how uncertain the model was before it heard the window",
    "nll": "how improbable the window's code was: -log2 of the probability expected for it",
}
STEPS_AHEAD = (1, 2, 4, 8, 16)  # windows, of `pydreaming horizon`; as in the evaluation
MEASURED = 300  # recordings whose level `pydreaming inspect` measures, unless all are asked for
MEASURED_S = 300.0  # s from the beginning of each that are then decoded
UNIT_PARTS: dict[str, str] = {
    "deter": "what was heard up to the window: one sound may be several units, by what led to it",
    "embed": "the window alone",
    "stoch": "the latents' probabilities",
    "feat": "deter and stoch side by side",
}
