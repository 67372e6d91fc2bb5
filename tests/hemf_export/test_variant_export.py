"""Reduced networks through the export: folded, simplified and proven; in FP16 and INT8."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hemf_export.checkpoints import checkpoint
from hemf_export.export import onnx_export
from hemf_export.files import artifacts
from hemf_export.networks.hemf.variants import VARIANTS, vary
from hemf_export.precision import quantize
from hemf_export.precision.bounds import Bounds
from hemf_export.precision.quantization_request import Request
from tests.conftest import TINY, once, tiny_checkpoint

pytestmark = pytest.mark.extended  # a third of the network and the whole one are exported by other tests
SMALL = dataclasses.replace(TINY, image_size=32)


@pytest.fixture(scope="module", params=[variant for variant in VARIANTS if variant != "full"])
def exported(request, tmp_path_factory):
    variant: str = request.param

    def make(folder: Path) -> None:
        checkpoint.save(tiny_checkpoint(config=vary(SMALL, variant)), folder / "m.pt")
        done = onnx_export.export(folder / "m.pt", folder / "m.onnx", onnx_export.Options())
        assert done.notes == ()

    return variant, once(tmp_path_factory, f"variant-{variant}", make) / "m.onnx"


def test_the_file_is_proven_and_named_and_no_norm_that_folds_is_left(exported):
    import onnx

    variant, path = exported
    manifest = artifacts.read_manifest(path)
    assert manifest["proof"]["figures"]["logit_difference"]["max"] < 1e-4
    assert manifest["name"] == f"test-{variant}"
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "BatchNormalization" not in kinds


@pytest.mark.parametrize(
    ("exported", "kind"),
    [("local-only", "int8"), ("both+mhea", "fp16"), ("full-irmlp", "int8")],
    indirect=["exported"],
)
def test_it_is_calibrated(exported, kind, pictures, tmp_path):
    """Untrained, it knows its classes too little to agree in INT8; that it runs, and what is written, is the point."""
    variant, path = exported
    loose = Bounds(max_logit_difference=100.0, min_agreement=0.0)
    request = Request(
        path, kind, pictures, count=6, held_out_count=6, method="max", output=tmp_path / f"m.{kind}.onnx", bounds=loose
    )
    made = quantize.make(request)
    manifest = artifacts.read_manifest(made.path)
    assert (manifest["precision"], manifest["name"]) == (kind, f"test-{variant}")
