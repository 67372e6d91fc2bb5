"""The Python API, a function for each arrow from images to a bundle. `hemf_export` gives all of it lazily."""
