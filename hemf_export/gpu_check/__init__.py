"""Try everything that needs a GPU on this machine's GPU, and say which claims of the documentation that confirms."""
