"""Planted hazards: plain conversion fails visibly, ours finds them by itself and passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from hemf_export.calibration import budget, image_set, int8, qdq, repair
from hemf_export.calibration.budget import Budget
from hemf_export.calibration.cache import Cache
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import copy_of, prepare
from hemf_export.calibration.job import Job
from hemf_export.calibration.session import Session
from hemf_export.calibration.trials import logits
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput
from hemf_export.metrics.comparison import compare
from tests.calibration import classifiers
from tests.conftest import Recorder


def job_for(proto: onnx.ModelProto, pictures: Path, size: int) -> Job:
    chosen = image_set.select(pictures, ModelInput(Preprocess.for_size(size)), None)
    return Job(prepare(proto), Session(ir.from_proto(proto)), "a graph", chosen, Cache(None), Recorder())


def plain_float16(job: Job) -> ir.Model:
    model = copy_of(job.model)
    to_float16(model, {})
    return model


def close(reference):
    return lambda found: bool(np.isfinite(found).all() and np.abs(found - reference).max() < 0.05)


@pytest.mark.parametrize(
    ("make", "size", "expected"),
    [
        (classifiers.written_out_norm, 32, {"squares", "variance"}),
        (classifiers.renormalized_softmax, 56, {"softmax", "sum", "attention"}),
    ],
    ids=["layer norm written out with Pow", "softmax divided by its sum"],
)
def test_what_float16_ruins_is_found_from_the_ranges(pictures, make, size, expected):
    job = job_for(make(pictures), pictures, size)
    held_out = job.selection.held_out
    reference = logits(job.model, held_out)
    assert compare(reference, reference, held_out.labels).accuracy > 0.9, "the classifier is one"
    plain = compare(logits(emulate(plain_float16(job)), held_out), reference, held_out.labels)
    assert not plain.finite or plain.agreement < 0.8, "the hazard is one"

    islands, _ = job.islands()
    done = repair.convert(job.model, islands, held_out, reference, close(reference))
    assert done.holds
    assert done.rounds == 1, "the ranges alone told"
    assert expected <= set(done.conversion.islands)
    assert len(done.conversion.islands) < len(list(job.model.graph)), "not everything was left in float32"
    assert compare(done.logits, reference, held_out.labels).agreement == 1.0


@pytest.mark.parametrize(
    ("make", "size"),
    [(classifiers.written_out_norm, 32), (classifiers.renormalized_softmax, 56)],
    ids=["layer norm written out with Pow", "softmax divided by its sum"],
)
def test_what_float16_ruins_is_found_by_comparison_where_no_range_told(pictures, make, size):
    """The same without any island from the start: the offenders are found node by node, and put back."""
    job = job_for(make(pictures), pictures, size)
    held_out = job.selection.held_out
    reference = logits(job.model, held_out)
    done = repair.convert(job.model, {}, held_out, reference, close(reference))
    assert done.holds
    assert 1 < done.rounds <= repair.MAX_ROUNDS
    assert done.conversion.islands
    assert all(reason.startswith(repair.MENDED) for reason in done.conversion.islands.values())


def test_a_safe_graph_gets_no_island(pictures):
    job = job_for(classifiers.normalized_cnn(pictures), pictures, 32)
    assert job.islands()[0] == {}


@pytest.mark.parametrize("for_cpu", [False, True])
def test_a_channel_that_ruins_int8_is_left_out_by_the_budget(pictures, for_cpu):
    job = job_for(classifiers.outlier_channel(pictures), pictures, 32)
    products = int8.products_of(job, for_cpu=for_cpu)
    everything = int8.plan(job, products, method="max", for_cpu=for_cpu)
    assert everything.place is (qdq.quantize_for_cpu if for_cpu else everything.place)
    trials = job.trials(everything.statistics, job.selection.held_out, everything.place)
    ruined = trials.compare(everything.chosen, "max")
    assert ruined.accuracy_drop_points > 20, "in INT8 all of it is ruined"

    kept = int8.plan(job, products, method="max", budget=Budget(0.5), for_cpu=for_cpu)
    chosen = {product.node for product in kept.chosen}
    assert "third" not in chosen, "its input has the outlier channel"
    assert ("second" in chosen) is not for_cpu, "its output has it, which a CPU's integer convolution rounds as well"
    assert "first" in chosen
    assert trials.compare(kept.chosen, "max").accuracy_drop_points <= 0.5
    assert kept.share > 0.1
    assert next(event.kept for event in job.progress.events if isinstance(event, budget.Step)) is False
    damage = {block.products[0].node: block.alone.kl_divergence for block in kept.sensitivities}
    assert damage["third"] > 1000 * damage["first"]
