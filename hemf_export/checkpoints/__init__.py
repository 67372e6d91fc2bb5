"""Checkpoints: ours, the authors' and other trainers', read without running what is in them."""
