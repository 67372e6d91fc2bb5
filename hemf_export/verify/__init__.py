"""Whether files still compute what the checkpoint computes: logits, accuracy, agreement, and where they part."""
