"""Published networks as their authors write them, in plain PyTorch: what ours are compared with."""
