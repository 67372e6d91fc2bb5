"""Checkpoints of ours, of the authors and of other training programs, read without running code in them."""
