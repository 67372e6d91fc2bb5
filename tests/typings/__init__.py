"""Stubs for mypy, and what writes them."""
