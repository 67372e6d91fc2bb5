"""Verify that files compute what their checkpoint computes: logits, accuracy, agreement, and where they diverge."""
