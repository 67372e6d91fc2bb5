"""Python API: a function for each step from images to a bundle. `hemf_export` imports all of it lazily."""
