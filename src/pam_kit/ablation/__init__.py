"""Studies: variants of a recipe, trained with several seeds, scored, and laid out beside a paper's. Torch-free."""
