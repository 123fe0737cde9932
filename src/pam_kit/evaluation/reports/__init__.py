"""Scores of benchmarks as tables, files and a page to look at."""
