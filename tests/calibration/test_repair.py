"""Float16 noise that no single node makes: the block whose rounding is amplified goes back to float32."""

from __future__ import annotations

import numpy as np
import pytest

from hemf_export.calibration import repair
from hemf_export.calibration.blocks import blocks
from hemf_export.calibration.trials import logits
from tests.calibration import classifiers
from tests.calibration.classifiers import node, normal
from tests.calibration.test_hazards import job_for


def amplified(pictures):
    """Small differences of large values, made early, decide: what rounds them is the noise, and not what follows."""
    nodes = [
        node("Conv", "x k", "c", strides=[4, 4], kernel_shape=[4, 4]), node("Add", "c large", "shifted"),
        node("Sub", "shifted large", "difference"), node("Conv", "difference wide", "mixed"),
        node("Relu", "mixed", "relu"), node("Conv", "relu last", "deep"), node("Relu", "deep", "relu2"),
        node("GlobalAveragePool", "relu2", "pooled"), node("Flatten", "pooled", "features"),
    ]  # fmt: skip
    weights = {
        "k": normal(16, 3, 4, 4, scale=0.1), "large": np.array(300.0, np.float32),
        "wide": normal(32, 16, 1, 1, scale=0.3), "last": normal(32, 32, 1, 1, scale=0.3),
    }  # fmt: skip
    return classifiers.classifier(nodes, weights, 32, pictures, 32)


@pytest.fixture(scope="module")
def noisy_job(pictures):
    return job_for(amplified(pictures), pictures, 32)


def test_the_block_that_makes_the_noise_comes_first(noisy_job):
    where = blocks(noisy_job.model.graph)
    order = repair.noisy_blocks(noisy_job.model, {}, where, noisy_job.selection.calibration.whole(8))
    assert order[0] == where["difference"]
    assert len(order) <= repair.MAX_BLOCKS


def test_blocks_go_back_to_float32_until_its_noise_is_low(noisy_job):
    job = noisy_job
    held_out = job.selection.held_out
    reference = logits(job.model, held_out)
    where = blocks(job.model.graph)

    def far(found) -> float:
        return float(np.abs(found - reference).max())

    plain = repair.convert(job.model, {}, held_out, reference, lambda found: True)
    assert plain.rounds == 1, "without a wish for less nothing is mended"
    wished = far(plain.logits) / 4
    asked: list[dict[str, str]] = []

    def noisy(islands):
        asked.append(dict(islands))
        return repair.noisy_blocks(job.model, islands, where, job.selection.calibration.whole(8))

    done = repair.convert(
        job.model,
        {},
        held_out,
        reference,
        lambda found: True,
        close_enough=lambda found: far(found) <= wished,
        noisy=noisy,
    )
    assert far(done.logits) <= wished
    assert asked == [{}], "the blocks are ordered once"
    assert 0 < len(done.conversion.islands) < len(where)
    assert "difference" in done.conversion.islands
    assert set(done.conversion.islands.values()) == {repair.AMPLIFIED_NOISE}
    products = {each.name for each in job.model.graph if each.op_type in ("Conv", "Gemm", "MatMul")}
    assert products.isdisjoint(done.conversion.islands), "Turing has no float32 products in TensorRT-RTX"


def test_a_wish_that_cannot_be_met_is_no_failure(noisy_job):
    held_out = noisy_job.selection.held_out
    reference = logits(noisy_job.model, held_out)
    done = repair.convert(
        noisy_job.model, {}, held_out, reference, lambda found: True, close_enough=lambda found: False
    )
    assert done.holds
    assert not repair.convert(noisy_job.model, {}, held_out, reference, lambda found: False, noisy=lambda own: []).holds
