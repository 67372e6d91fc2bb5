"""HEMF, the network and its files: architecture, checkpoints, preprocessing, artifacts. Knows no ONNX, no engines."""
