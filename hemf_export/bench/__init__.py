"""Latency, throughput, memory and the roofline of checkpoints, ONNX files and engines, side by side in one run."""
