"""The parts of `benchmarks.training_speed`."""
