"""What a built engine computes in, layer by layer, as TensorRT's inspector tells it where the engine runs.

The graph says what was asked for; this says what the builder made of it, after fusion.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hemf_export.engines import kernels
from hemf_export.engines.kernels import Kernel
from hemf_export.engines.runtime import Loaded


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Args:
        name: of the nodes that were fused in it.
        kind: TensorRT's name of what it does.
        precision: of its first output: fp32, fp16, bf16, int8; "unknown" where the inspector doesn't say.
    """

    name: str
    kind: str
    precision: str


def of(loaded: Loaded) -> tuple[list[Layer], list[Kernel]]:
    """The layers of an engine, in order; and its kernels with their tensors, as far as the inspector tells."""
    text = _said(loaded)
    return parse(text), kernels.parse_json(text)


def _said(loaded: Loaded) -> str:
    trt = loaded.backend.bindings
    inspector = loaded.engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def parse(text: str) -> list[Layer]:
    """Read the inspector's JSON; an engine that was built without details has names alone, or nothing."""
    try:
        entries = json.loads(text).get("Layers")
    except (ValueError, AttributeError):
        return []
    return [_layer(entry) for entry in entries] if isinstance(entries, list) else []


def table(layers: list[Layer]) -> dict[str, dict[str, int]]:
    """How many layers of each kind compute in each precision, the most frequent kind first."""
    counts = Counter(layer.kind for layer in layers)
    pairs = Counter((layer.kind, layer.precision) for layer in layers)
    return {
        kind: {precision: pairs[kind, precision] for precision in sorted({key[1] for key in pairs if key[0] == kind})}
        for kind, _ in counts.most_common()
    }


def _layer(entry: Any) -> Layer:
    if not isinstance(entry, Mapping):
        return Layer(str(entry), "unknown", "unknown")
    outputs = entry.get("Outputs")
    first = outputs[0] if isinstance(outputs, list) and outputs and isinstance(outputs[0], Mapping) else {}
    # TensorRT 10 has the type in the format, 11 beside it.
    said = " ".join(str(first.get(key, "")) for key in ("Datatype", "Format/Datatype", "Format"))
    return Layer(str(entry.get("Name", "")), str(entry.get("LayerType", "unknown")), kernels.dtype_of(said))
