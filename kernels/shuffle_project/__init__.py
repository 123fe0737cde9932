"""Neighbouring tokens merged into one, ahead of a projection (pixel shuffle)."""

from pam_kit.kernels.shuffle_project.reference import merge_neighbours

__all__ = ["merge_neighbours"]
