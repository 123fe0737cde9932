"""The published benchmarks that PAM is measured on, their files read as they are. Torch-free."""
