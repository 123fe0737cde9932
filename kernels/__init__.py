"""Fast paths: one folder per operator, tensors in, tensors out. Importing it needs neither Triton nor a GPU."""
