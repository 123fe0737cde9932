"""The built-in dataset: drawn scenes with exact masks and texts in English and Chinese, unlimited and deterministic."""
