"""Predictions of benchmarks: made picture by picture, kept line by line, gone on with, and read from others."""
