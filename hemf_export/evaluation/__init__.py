"""Evaluate models on labelled images, and explain where in an image a model sees its class."""
