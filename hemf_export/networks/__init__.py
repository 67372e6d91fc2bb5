"""The networks: architecture, configurations, parameters and multiply-adds. No files, no ONNX."""
