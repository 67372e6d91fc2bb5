"""`python -m train DATA -o RUN`: the same as `hemf-export train`."""

from __future__ import annotations

import sys

# An entry point, not the library: the one place of this room that knows the front door (see the import contract).
from hemf_export.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
