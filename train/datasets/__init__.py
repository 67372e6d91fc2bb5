"""Which images train, validate and test: published sets and class folders, split, recorded and checked."""
