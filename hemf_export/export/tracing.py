"""Trace a network with torch's dynamo exporter, and tell what it refuses of a network of a user's own."""

from __future__ import annotations

import gc
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from hemf_export.files.errors import BadInputError, HemfError
from hemf_export.files.gpu_memory import is_out_of_memory
from hemf_export.networks import factory
from hemf_export.networks.network import Network

INPUT_NAME, OUTPUT_NAME = "images", "logits"


def trace(model: nn.Module, example: Tensor, opset: int, *, any_batch: bool = False) -> ir.Model:
    """Run the exporter without its optimization, which `graph_cleanup` does in a tenth of the time.

    Args:
        model: the network, in evaluation mode.
        example: images of at least 2, as 1 would be treated as a broadcast axis.
        opset: ONNX opset version, 18 or newer.
        any_batch: trace the batch size as a symbol, which leaves arithmetic on shapes in the graph.

    Raises:
        BadInputError: the exporter refuses what a network of a user's own does.
    """
    settings: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if any_batch else {}
    with _quiet(printed=not isinstance(model, Network)), _translated(model):
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            optimize=False,
            verbose=False,
            **settings,
        )
    assert program is not None
    return program.model


@contextmanager
def _quiet(*, printed: bool) -> Iterator[None]:
    """Collect no garbage and hide warnings; with `printed`, also what is printed, which is a listing of the graph."""
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects are created, none of which is garbage before the end
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    logger = logging.getLogger("torch")
    level, sink = logger.level, io.StringIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
            if not printed:
                yield
                return
            logger.setLevel(logging.CRITICAL)
            warnings.simplefilter("ignore")
            with redirect_stdout(sink), redirect_stderr(sink):
                yield
    finally:
        logger.setLevel(level)
        if collecting:
            gc.enable()


@contextmanager
def _translated(model: nn.Module) -> Iterator[None]:
    try:
        yield
    except (HemfError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        if isinstance(model, Network) or is_out_of_memory(error):
            raise
        origin = _origin(error)
        where = module_at(origin, model)
        raise BadInputError(
            f"torch's exporter refuses the network{f' in the module {where}' if where else ''}: "
            f"{_reason(origin)}{factory.place_of(origin)}.",
            _hint(str(origin)),
        ) from error


def module_at(error: BaseException, model: nn.Module) -> str:
    """Name the innermost module of `model` whose code raised an exception; empty for the network itself, or none."""
    names = {id(module): name for name, module in model.named_modules()}
    found, trace = "", error.__traceback__
    while trace is not None:
        found = names.get(id(trace.tb_frame.f_locals.get("self")), "") or found
        trace = trace.tb_next
    return found


def _origin(error: BaseException) -> BaseException:
    """Return the first exception of a chain."""
    seen: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in seen:
        seen.append(now)
        now = now.__cause__
    return seen[-1]


def _reason(error: BaseException) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    text = re.sub(r"\x1b\[[0-9;]*m", "", line).strip().rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _hint(text: str) -> str:
    if "data-dependent" in text or "DataDependent" in text or "unbacked" in text.lower():
        return "A graph is the same for all images: `if` and loops may not depend on values; use torch.where."
    return "Write that part with other operators."
