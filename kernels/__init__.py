"""Fast paths: one folder per operator, tensors in, tensors out. Importing this package needs neither Triton nor a GPU."""
