"""Files that say of themselves whatever a stranger may write into them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import onnx_ir as ir

from hemf_export.files import artifacts
from hemf_export.models import onnx_model
from tests.conftest import CLASSES
from tests.hemf_export.triton.models import described, means

# Names that are no names of files, or of others than they seem: separators, parents, roots, NUL, 255 bytes, lines,
# look-alikes, devices, and what steers a terminal, a shell or a template.
NAMES = {
    "parents": "../../../victim.txt",
    "root": "/tmp/victim.txt",
    "keras": "serving_default/input_1:0",
    "backslashes": "..\\..\\victim.txt",
    "drive": "C:\\victim.txt",
    "dots": "..",
    "dot": ".",
    "blank": " ",
    "NUL sign": "victim.txt\0.bin",
    "long": "n" * 255,
    "longer": "é" * 255,
    "line breaks": "a\nb\r\nc\u2028d\x85e",
    "look-alikes": "‥∕‥／victim.txt",
    "device": "CON",
    "device with an ending": "nul.txt",
    "terminal": "\x1b[2J\x1b]0;owned\x07\x9b31mred",
    "direction": "gnp.\u202egpj",
    "quotes": 'a" } model_warmup { name: "b\'',
    "shell": "$(touch victim.txt); `id` | tee victim.txt",
    "markup": "[red]a[/red] :skull: <script>alert(1)</script>",
    "hidden": ".ssh/authorized_keys",
    "labels": "labels.txt",
    "config": "config.pbtxt",
}


def classifier(path: Path, *, tensor: str = "images", classes: tuple[str, ...] = CLASSES, producer: str = "") -> Path:
    """An ONNX file of ours whose logits are means, with names of its own."""
    means(path)
    proto = onnx.load(path)
    proto.graph.input[0].name = tensor
    proto.graph.node[0].input[0] = tensor
    proto.producer_name = producer
    proto.graph.name = producer or "g"
    proto.graph.node[0].name = tensor
    model = ir.from_proto(proto)
    description = dataclasses.replace(described(), classes=classes, name=producer or "means")
    onnx_model.describe(model, description)
    ir.save(model, path)
    artifacts.write_manifest(path, {"kind": "onnx", "parent": tensor, **description.to_dict()})
    return path
