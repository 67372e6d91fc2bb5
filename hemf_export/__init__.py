"""Train HEMF or another network, and take it to ONNX files and TensorRT engines that are proven to be the same model.

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
    from hemf_export.api.data import CheckedSplit, DataSplit, check_split, split_data
    from hemf_export.api.delivery import SelfTest, Shipment, bundle, self_test, ship, ship_all
    from hemf_export.api.graphs import build_engine, export_onnx, finetune, quantize
    from hemf_export.api.inspection import (
        Checkup,
        Inspection,
        NetworkInfo,
        NetworkList,
        doctor,
        info,
        inspect,
        list_networks,
    )
    from hemf_export.api.models import Model, Predictions, load, predict, predict_served
    from hemf_export.api.results import (
        BundleFile,
        EngineFile,
        ExportedFile,
        FineTunedFile,
        OnnxFile,
        QuantizedFile,
        TrainResult,
    )
    from hemf_export.api.serving import (
        CheckedRepository,
        TritonRepository,
        check_repository,
        serve_versions,
        triton_repository,
    )
    from hemf_export.api.training import Ablation, FailedRun, TrainingBegun, ablate, recipe_file, train
    from hemf_export.files.errors import (
        BadInputError,
        CheckFailedError,
        HemfError,
        MissingCapabilityError,
        UsageError,
    )
    from hemf_export.files.progress import Progress
    from hemf_export.finetuning.recipe import FineTuning
    from hemf_export.gpu_check.check import GpuCheck, check_gpu
    from hemf_export.models.predictor import Prediction
    from hemf_export.shipping.options import Options as ShipOptions
    from hemf_export.train.recipe import Recipe
    from hemf_export.triton.repository import ServedModel

# module → the names that it has; `NAME=OTHER` is called OTHER there
_NAMES = {
    "api.checks": "Benchmark Evaluation Explanation Verification benchmark evaluate explain verify",
    "api.data": "CheckedSplit DataSplit check_split split_data",
    "api.delivery": "SelfTest Shipment bundle self_test ship ship_all",
    "api.graphs": "build_engine export_onnx finetune quantize",
    "api.inspection": "Checkup Inspection NetworkInfo NetworkList info inspect list_networks",
    "api.models": "Model Predictions load predict predict_served",
    "api.results": "BundleFile EngineFile ExportedFile FineTunedFile OnnxFile QuantizedFile TrainResult",
    "api.serving": "CheckedRepository TritonRepository check_repository serve_versions triton_repository",
    "api.training": "Ablation FailedRun TrainingBegun ablate recipe_file",
    "files.errors": "BadInputError CheckFailedError HemfError MissingCapabilityError UsageError",
    "files.progress": "Progress",
    "gpu_check.check": "GpuCheck check_gpu",
    "models.predictor": "Prediction",
    "shipping.options": "ShipOptions=Options",
    "finetuning.recipe": "FineTuning",
    "train.recipe": "Recipe",
    "triton.repository": "ServedModel",
}
_HOMES = {
    name: (module, own or name)
    for module, names in _NAMES.items()
    for name, _, own in (each.partition("=") for each in names.split())
}

__all__ = [
    "Ablation", "BadInputError", "Benchmark", "BundleFile", "CheckFailedError", "CheckedRepository",
    "CheckedSplit", "Checkup", "DataSplit", "EngineFile", "Evaluation", "Explanation", "ExportedFile",
    "FailedRun", "FineTunedFile", "FineTuning", "GpuCheck", "HemfError", "Inspection", "MissingCapabilityError",
    "Model", "NetworkInfo", "NetworkList", "OnnxFile", "Prediction", "Predictions", "Progress", "QuantizedFile",
    "Recipe", "SelfTest", "ServedModel", "ShipOptions", "Shipment", "TrainResult", "TrainingBegun", "TritonRepository",
    "UsageError", "Verification", "ablate", "benchmark", "build_engine", "bundle", "check_gpu", "check_repository",
    "check_split", "doctor", "evaluate", "explain", "export_onnx", "finetune", "info", "inspect", "list_networks",
    "load", "predict", "predict_served", "quantize", "recipe_file", "self_test", "serve_versions", "ship", "ship_all",
    "split_data", "train", "triton_repository", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own = _HOMES[name]
    value = getattr(importlib.import_module(f"{__name__}.{module}"), own)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Packages that are called like a function of theirs: their names are fixed, and so are the functions'.
_CALLED = {f"{__name__}.doctor": "api.inspection", f"{__name__}.train": "api.training"}


class _CalledPackage(ModuleType):
    """A package that is called as a function: `train` and `doctor`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        home = importlib.import_module(f"{__name__}.{_CALLED[self.__name__]}")
        return getattr(home, self.__name__.rpartition(".")[2])(*arguments, **options)


if not TYPE_CHECKING:
    for _name in _CALLED:
        importlib.import_module(_name).__class__ = _CalledPackage
