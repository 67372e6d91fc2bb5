"""HEMF: its configuration, network, initialization, variants, and the layout of its authors' checkpoints."""
