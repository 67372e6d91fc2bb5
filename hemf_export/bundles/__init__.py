"""Bundles: archives of models, proofs, golden images, a Triton repository and C++ sources for a target."""
