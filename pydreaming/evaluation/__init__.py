"""Figures of merit beside their baselines: probes, open-loop prediction."""
