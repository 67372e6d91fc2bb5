"""HEMF, the network and its files: architecture, checkpoints, preprocessing, artifacts. Knows no ONNX, no engines."""

from hemf.processors import respect_quota

respect_quota()  # before PyTorch and NumPy are loaded, which count the cores once
