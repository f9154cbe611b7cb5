"""The mathematics: tensors in, tensors out. Nothing in this package reads a file or a configuration."""
