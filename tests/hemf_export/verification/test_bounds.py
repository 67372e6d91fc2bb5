"""What a file may differ by: from its own proof, its precision, and what was asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hemf_export.calibration.budget import Budget
from hemf_export.metrics.comparison import compare
from hemf_export.models.proof import Figures, ImageRecord, Proof
from hemf_export.verification import bounds
from hemf_export.verification.bounds import Bounds


def test_bounds_follow_the_files_own_proof():
    own = Proof(
        ImageRecord("val", 50),
        Figures.from_dict({"agreement": 1.0, "logit_difference": {"max": 0.01}}),
        budget=Budget(2.0),
    )
    proof = bounds.proof_of({"proof": own.to_dict()})
    assert proof == bounds.Proof(0.01, 50, 2.0, None)
    earlier = {
        "figures": {"agreement": 1.0, "max_difference": 0.01},
        "held_out_images": {"folder": "val", "images": 50},
        "budget": {"max_drop": 2.0, "min_agreement": None},
    }
    assert bounds.proof_of(earlier) == proof, "as earlier versions called it"
    assert bounds.proof_of({"proof_of_the_graph": earlier}) == proof, "an engine's is that of its graph"
    assert bounds.proof_of({"proof": 3}) == bounds.proof_of(None) == bounds.Proof()
    noise = dataclasses.replace(own, images=ImageRecord("seeded noise", 8, noise=True))
    assert bounds.proof_of({"proof": noise.to_dict()}) == bounds.Proof()
    balanced = dataclasses.replace(own, budget=Budget(2.0, metric="balanced-accuracy"))
    assert bounds.proof_of({"proof": balanced.to_dict()}).max_drop is None, "points of another metric"
    logits = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
    paired = compare(logits, logits, None)
    largest = float(np.abs(logits).max())
    found = bounds.limits(Bounds(), "int8", proof, paired, {"a": 10, "b": 400})
    assert found.max_logit_difference == pytest.approx(4 * 0.01), "three times, and once more for ten times as many"
    assert found.max_drop == 2.0
    assert found.max_recall_drop == {"a": 10.0, "b": 2.0}, "one image of ten"
    silent = bounds.limits(Bounds(), "int8", bounds.Proof(), paired, {})
    assert silent.max_logit_difference == pytest.approx(0.25 * largest)
    asked = bounds.limits(Bounds(0.1, 1.0, 0.2, 0.3), "int8", proof, paired, {"a": 10})
    assert (asked.max_drop, asked.min_agreement, asked.max_logit_difference) == (0.1, 1.0, 0.3)
    assert asked.max_recall_drop == {"a": 0.2}
    assert bounds.limits(Bounds(), "fp16", proof, paired, {}).max_logit_difference == pytest.approx(0.04)
    assert bounds.limits(Bounds(), "fp16", bounds.Proof(), paired, {}).max_logit_difference == 0.05
    assert bounds.limits(Bounds(), "fp32", proof, paired, {}).max_logit_difference == 1e-4


def test_one_image_may_change_unless_it_was_said_otherwise():
    logits = np.eye(2, dtype=np.float32)[np.arange(20) % 2]
    other = logits.copy()
    other[0] = other[0, ::-1]
    labels = np.arange(20) % 2
    paired = compare(other, logits, labels)
    for bound, names in (
        (Bounds(max_logit_difference=2), []),
        (Bounds(0.0, 1.0, 0.0, 2), ["min_agreement", "max_drop", "max_recall_drop"]),
    ):
        allowed = bounds.limits(bound, "fp32", bounds.Proof(), paired, {"a": 10, "b": 10})
        found = bounds.missed(allowed, paired, {"a": 10.0, "b": 0.0})
        assert [item.bound for item in found] == names
