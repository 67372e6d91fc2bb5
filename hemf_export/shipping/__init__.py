"""From checkpoints to bundles, step by step, each step made once for what it is made of."""
