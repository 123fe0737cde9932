"""Samples, readers, the built-in micro dataset, collation."""
