"""Reduced networks through the export: folded, simplified and proven; in FP16 and INT8."""

from __future__ import annotations

import dataclasses

import pytest

from hemf import artifacts, checkpoint
from hemf.variants import VARIANTS, vary
from hemf_export import onnx_export, precision
from hemf_export.fp16 import Bounds
from tests.conftest import TINY, tiny_checkpoint
from tests.hemf_export.conftest import Quiet

SMALL = dataclasses.replace(TINY, image_size=32)


@pytest.fixture(scope="module", params=[variant for variant in VARIANTS if variant != "full"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variant")
    checkpoint.save(tiny_checkpoint(config=vary(SMALL, request.param)), folder / "m.pt")
    done = onnx_export.export(folder / "m.pt", folder / "m.onnx", onnx_export.Options())
    return request.param, done


def test_the_file_is_proven_and_named_and_no_norm_that_folds_is_left(exported):
    import onnx

    variant, done = exported
    assert done.parity.max_difference < 1e-4
    assert done.notes == ()
    assert artifacts.read_manifest(done.path)["name"] == f"test-{variant}"
    kinds = {node.op_type for node in onnx.load(done.path).graph.node}
    assert "BatchNormalization" not in kinds


@pytest.mark.parametrize(
    ("exported", "kind"),
    [("local-only", "int8"), ("both+mhea", "fp16"), ("full-irmlp", "int8")],
    indirect=["exported"],
)
def test_it_is_calibrated(exported, kind, pictures, tmp_path):
    """Untrained, it knows its classes too little to agree in INT8; that it runs, and what is written, is the point."""
    variant, done = exported
    loose = Bounds(max_logit_difference=100.0, min_agreement=0.0)
    request = precision.Request(
        done.path, kind, pictures, count=6, judges=6, method="max", output=tmp_path / f"m.{kind}.onnx", bounds=loose
    )
    made = precision.make(request, Quiet())
    manifest = artifacts.read_manifest(made.path)
    assert (manifest["precision"], manifest["name"]) == (kind, f"test-{variant}")
