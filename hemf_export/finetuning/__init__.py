"""Quantization-aware fine-tuning: INT8 ONNX file and labelled images → the same graph, its weights trained for INT8."""
