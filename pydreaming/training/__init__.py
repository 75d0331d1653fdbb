"""One optimisation step, checkpoints, diagnostics."""
