"""Checkpoints in and out: the released PAM's folder to a run folder and back, and a run as a folder to hand on."""
