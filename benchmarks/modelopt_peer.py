"""Run NVIDIA ModelOpt's AutoCast on one file, for `benchmarks.precision`, in a virtual environment of its own.

The script imports nothing of ours: ModelOpt pins older versions of onnx than we need.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Convert a file, and report the seconds from file to file, without imports and their side effects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="float32 ONNX file")
    parser.add_argument("output", type=Path, help="FP16 ONNX file")
    parser.add_argument("report", type=Path, help="JSON file")
    parser.add_argument("--ranges", action="store_true", help="run the graph first, as AutoCast does by default")
    arguments = parser.parse_args()

    import modelopt
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision

    # Without a bound on the data AutoCast skips the run of the float32 graph, which it doesn't need then.
    options: dict[str, Any] = {} if arguments.ranges else {"data_max": math.inf}
    start = time.perf_counter()
    converted = convert_to_mixed_precision(
        str(arguments.source), low_precision_type="fp16", keep_io_types=True, **options
    )
    onnx.save(converted, arguments.output)
    seconds = time.perf_counter() - start
    arguments.report.write_text(json.dumps({"seconds": seconds, "version": modelopt.__version__}))


if __name__ == "__main__":
    main()
