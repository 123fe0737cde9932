"""How fast the kit is, and how much memory it takes, against plain code that does the same. Torch-free."""
