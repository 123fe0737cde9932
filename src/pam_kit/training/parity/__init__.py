"""Does the kit compute what the released PAM computes? ``python -m pam_kit.training.parity FOLDER`` says so.

FOLDER holds golden files: inputs and outputs of the released code at random weights that a formula gives. The kit's
own parts get the same weights and inputs, and every tensor of every file is compared.
"""
