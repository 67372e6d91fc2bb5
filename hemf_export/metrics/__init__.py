"""Metrics of a classifier on labelled images, and differences of two models on the same images."""
