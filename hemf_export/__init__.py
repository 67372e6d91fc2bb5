"""Train HEMF, and take its checkpoints to ONNX files and TensorRT engines that are proven to be the same model.

    import hemf_export

    run = hemf_export.train("data", "run", model="hemf-tiny")
    onnx = hemf_export.export_onnx(run)
    half = hemf_export.quantize(onnx, "data")
    verification = hemf_export.verify([onnx, half], "data")
    engine = hemf_export.build_engine(half, target="t4")
    hemf_export.bundle([half, engine], "best.tar.zst", verification=verification)

Importing this is cheap: what a function needs, PyTorch and ONNX Runtime among it, is imported when it is called.
"""

import importlib
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hemf_export.files.processors import respect_quota

# ONNX Runtime from 1.29 on sends events of its use, with an identifier of the device; it keeps both in the home folder.
# It reads this when it is loaded; child processes inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
respect_quota()  # before PyTorch and NumPy are loaded, which count the cores once

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hemf_export.api.checks import (
        Benchmark,
        Evaluation,
        Explanation,
        Verification,
        benchmark,
        evaluate,
        explain,
        verify,
    )
    from hemf_export.api.delivery import SelfTest, Shipment, bundle, self_test, ship
    from hemf_export.api.graphs import build_engine, export_onnx, quantize
    from hemf_export.api.models import Model, load
    from hemf_export.api.results import BundleFile, EngineFile, OnnxFile, TrainResult
    from hemf_export.api.training import train
    from hemf_export.files.errors import (
        BadInputError,
        CheckFailedError,
        HemfError,
        MissingCapabilityError,
        UsageError,
    )
    from hemf_export.files.progress import Progress
    from hemf_export.models.predictor import Prediction
    from hemf_export.train.recipe import Recipe

# name → the module that has it
_HOMES = {
    **dict.fromkeys(
        ("Benchmark", "Evaluation", "Explanation", "Verification", "benchmark", "evaluate", "explain", "verify"),
        "api.checks",
    ),
    **dict.fromkeys(("SelfTest", "Shipment", "bundle", "self_test", "ship"), "api.delivery"),
    **dict.fromkeys(("build_engine", "export_onnx", "quantize"), "api.graphs"),
    **dict.fromkeys(("Model", "load"), "api.models"),
    **dict.fromkeys(("BundleFile", "EngineFile", "OnnxFile", "TrainResult"), "api.results"),
    **dict.fromkeys(
        ("BadInputError", "CheckFailedError", "HemfError", "MissingCapabilityError", "UsageError"), "files.errors"
    ),
    "Prediction": "models.predictor",
    "Progress": "files.progress",
    "Recipe": "train.recipe",
}

__all__ = [
    "BadInputError", "Benchmark", "BundleFile", "CheckFailedError", "EngineFile", "Evaluation", "Explanation",
    "HemfError", "MissingCapabilityError", "Model", "OnnxFile", "Prediction", "Progress", "Recipe", "SelfTest",
    "Shipment", "TrainResult", "UsageError", "Verification", "benchmark", "build_engine", "bundle", "evaluate",
    "explain", "export_onnx", "load", "quantize", "self_test", "ship", "train", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _TrainPackage(ModuleType):
    """The package of training, which is called to train: its name is fixed, and so is the function's."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("hemf_export.api.training").train(*arguments, **options)


if not TYPE_CHECKING:
    from hemf_export import train

    train.__class__ = _TrainPackage
