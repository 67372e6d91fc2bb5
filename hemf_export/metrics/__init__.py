"""How good a classifier is on labelled images, and how far two models are apart on the same ones."""
