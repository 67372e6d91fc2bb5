"""One archive with all that goes to a target: models, proofs, golden images, Triton's repository, the C++ sources."""
