"""Small samples of the benchmarks in exactly their published forms: drawn pictures and own texts, for trying things."""
