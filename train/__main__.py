"""`python -m hemf_export.train`: short for `python -m hemf_export train`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    runpy.run_module("hemf_export", run_name="__main__", alter_sys=True)
