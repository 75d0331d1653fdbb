"""Distributions, window encoder, discrete recurrent state-space models, probe decoder."""
