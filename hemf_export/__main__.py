"""`python -m hemf_export COMMAND …`: the command line where `hemf-export` is not on the path, as under torchrun."""

from hemf_export.cli import main

if __name__ == "__main__":
    main()
