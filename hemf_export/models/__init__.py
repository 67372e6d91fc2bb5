"""Model files of any kind (checkpoints, ONNX files, engines), their descriptions, runners and proofs."""
