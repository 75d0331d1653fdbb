"""The parts of `benchmarks.quality`: jobs, training, suites and tables."""
