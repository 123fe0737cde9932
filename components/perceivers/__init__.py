"""Components of this slot; the registry reads them from their files."""
