"""Commands, one per file, which parse options, call one function of the API and print."""
