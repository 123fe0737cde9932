"""Benchmarks whose scores another model gives: what it is asked, how its replies are read and kept. Torch-free."""
