"""Variants on the first images and on all: the same logits, nothing run twice, and constant weights change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from hemf_export.calibration import int8, qdq, trials
from hemf_export.calibration.cache import Cache
from hemf_export.calibration.image_set import ImageSet
from hemf_export.calibration.job import Job
from hemf_export.calibration.session import Session
from hemf_export.calibration.trials import Trials, logits
from tests.calibration import classifiers
from tests.calibration.test_hazards import job_for


@pytest.fixture(scope="module")
def job(pictures) -> Job:
    return job_for(classifiers.normalized_cnn(pictures), pictures, 32)


@pytest.fixture
def few(monkeypatch) -> int:
    monkeypatch.setattr(trials, "FIRST", 12)
    return trials.FIRST


class Counted:
    """Results of earlier runs, and how many images were run for others."""

    def __init__(self) -> None:
        self.known: dict[object, np.ndarray] = {}
        self.run = 0

    def find(self, variant, images: ImageSet):
        return self.known.get((variant, images))

    def keep(self, variant, images: ImageSet, found) -> None:
        self.run += len(images)
        self.known[variant, images] = found


def of(job: Job, counted: Counted, **options) -> tuple[Trials, int8.Plan]:
    plan = int8.plan(job, int8.products_of(job), method="max")
    made = Trials(
        job.model, job.reference, plan.statistics, job.selection.held_out, remembered=counted.find,
        remember=counted.keep, **options,
    )  # fmt: skip
    return made, plan


def test_the_first_images_alone_are_run_where_they_tell_enough(job, few):
    counted = Counted()
    made, plan = of(job, counted)
    images = job.selection.held_out
    asked = []

    def told(found, count):
        asked.append((found.images, count))
        return True

    found = made.compare(plan.chosen, "max", told)
    assert (found.images, counted.run) == (few, few)
    assert asked == [(few, len(images))]
    assert found.accuracy is not None
    everything = made.compare(plan.chosen, "max")
    assert (everything.images, counted.run) == (len(images), len(images)), "the first ones are not run again"
    assert made.run(plan.chosen, "max").shape == made.reference.shape
    assert counted.run == len(images)


def test_logits_come_in_the_order_of_the_images(job, few):
    made, plan = of(job, Counted())
    variant = made.build(plan.chosen, "max")
    expected = logits(variant, job.selection.held_out)
    np.testing.assert_allclose(made.run(plan.chosen, "max"), expected, atol=1e-4)
    assert len({tuple(row) for row in expected}) > few, "another order would show"


def test_constant_weights_are_the_values_that_the_int8_weights_stand_for(job):
    plain, plan = of(job, Counted())
    folded, _ = of(job, Counted(), folded=True)
    found = folded.run(plan.chosen, "max")
    exact = logits(Session(plain.build(plan.chosen, "max"), as_written=True), job.selection.held_out)
    assert np.abs(found - exact).max() < 1e-5
    assert np.abs(plain.run(plan.chosen, "max") - exact).max() < 0.01, "integer products round a bit otherwise"
    assert np.abs(found - plain.reference).max() > 0.01, "quantization shows"


def test_a_job_folds_what_tensorrt_gets_alone(job):
    plan = int8.plan(job, int8.products_of(job), method="max")
    assert plan.place is qdq.quantize
    assert job.trials(plan.statistics, job.selection.held_out, plan.place)._folded
    cpu = int8.plan(job, int8.products_of(job, for_cpu=True), method="max", for_cpu=True)
    assert not job.trials(cpu.statistics, job.selection.held_out, cpu.place)._folded


def test_a_cpu_gets_weights_of_7_bits_of_its_own_from_the_cache_too(pictures, tmp_path):
    for _ in ("made", "read"):
        job = job_for(classifiers.normalized_cnn(pictures), pictures, 32)
        job.cache = Cache(tmp_path)
        for for_cpu, largest in ((False, 127), (True, 64)):
            products = int8.products_of(job, for_cpu=for_cpu)
            weights = int8.plan(job, products, method="max", for_cpu=for_cpu).statistics.weights
            assert {np.abs(weight.values).max() for weight in weights.values()} == {largest}


def test_integer_operators_give_a_cpu_what_the_graph_does_node_by_node(job):
    """A network whose sums of 8-bit products saturate at int16 with AVX2: its logits moved by 1.6 there."""
    plan = int8.plan(job, int8.products_of(job, for_cpu=True), method="max", for_cpu=True)
    made = job.trials(plan.statistics, job.selection.held_out, plan.place)
    exact = logits(Session(made.build(plan.chosen, "max"), as_written=True), job.selection.held_out)
    assert np.abs(made.run(plan.chosen, "max") - exact).max() < 0.02, "sums at the edge of a step"
    assert 0 < np.abs(exact - made.reference).max() < 0.2
