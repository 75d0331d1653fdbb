"""Hostile input, at random and in bulk, into the real code: see `python -m benchmarks.hostile --help`."""
