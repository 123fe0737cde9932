"""Masks and texts out of pictures."""
