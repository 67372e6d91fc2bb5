"""Triton Inference Server: model repositories from engines and ONNX files, and a client of the server."""
