"""Neighbouring tokens merged into one and projected (pixel shuffle, section 3.1 of the paper)."""

from pam_kit.kernels.shuffle_project.measured import cases
from pam_kit.kernels.shuffle_project.op import shuffle_project
from pam_kit.kernels.shuffle_project.reference import TokenOrder, merge_neighbours
from pam_kit.kernels.shuffle_project.table import entries

__all__ = ["TokenOrder", "cases", "entries", "merge_neighbours", "shuffle_project"]
