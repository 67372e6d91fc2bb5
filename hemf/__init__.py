"""HEMF, the network and its files: architecture, checkpoints, preprocessing, artifacts. Knows no ONNX, no engines."""

import os

from hemf.processors import respect_quota

# ONNX Runtime from 1.29 on sends events of its use, with an identifier of the device; it keeps both in the home folder.
# It reads this when it is loaded; child processes inherit it. Every room imports this package first.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
respect_quota()  # before PyTorch and NumPy are loaded, which count the cores once
