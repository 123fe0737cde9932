"""Small samples of the benchmarks in exactly their published forms: drawn pictures and own texts, for trying things.

``python -m pam_kit.evaluation.benchmarks.samples OUT`` writes them all, a folder each.
"""
