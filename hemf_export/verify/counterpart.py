"""The float32 graph that a file's values are compared with: in the form for a backend that the file was brought to.

A pass of `calibration.forms` names what it writes by the block that it writes it for, so the same passes over the same
float32 file give the same names, and what stands under a name in both graphs is the same value.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from calibration import forms
from calibration.graphs import prepare
from hemf import artifacts
from hemf_export import onnx_file


def counterpart(float32: Path, made: Path) -> ir.Model:
    """Read the float32 file, in the form that the manifest of `made` tells; as it is where that tells none.

    Raises:
        BadInputError: a file, or its manifest.
    """
    model = prepare(onnx_file.read_any(float32))
    told = (artifacts.read_manifest(made) or {}).get("form")
    if not isinstance(told, dict):
        return model
    passes = told.get("passes")
    for form in forms.FORMS:
        if form == told.get("for"):
            forms.rewrite(model, form, only=tuple(passes) if isinstance(passes, dict) else ())
    return model
