"""Are the scores those of the published evaluations? ``python -m pam_kit.evaluation.golden`` compares golden numbers.

``lines`` says what a comparison is, ``captions``, ``labels``, ``scene_text`` and ``judge`` hold one for each section of
a golden file, and ``check`` goes through all of them. What is expected, and of what, comes from the two files alone.
"""
