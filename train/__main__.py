"""`python -m hemf_export.train`: the command that trains."""

import sys

# An entry point, not the library: the one place of this room that knows the command line (see the import contract).
from hemf_export.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
