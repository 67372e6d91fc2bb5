"""What a file may differ by: from its own proof, its precision, and what was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from hemf_export.verify import bounds, verification
from hemf_export.verify.bounds import Bounds


def test_bounds_follow_the_files_own_proof():
    manifest = {"figures": {"max_difference": 0.01, "images": 50}, "budget": {"max_drop": 2.0, "min_agreement": None}}
    proof = bounds.proof_of(manifest)
    assert bounds.proof_of({"proof_of_the_graph": manifest}) == proof, "an engine's is that of its graph"
    assert bounds.proof_of({"figures": {"max_difference": "many"}, "budget": 3}) == bounds.Proof()
    assert bounds.proof_of(None) == bounds.Proof()
    balanced = {"budget": {"max_drop": 2.0, "metric": "balanced-accuracy"}}
    assert bounds.proof_of(balanced).max_drop is None, "points of another metric"
    logits = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
    paired = verification.comparison.compare(logits, logits, None)
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
    paired = verification.comparison.compare(other, logits, labels)
    for bound, names in (
        (Bounds(max_logit_difference=2), []),
        (Bounds(0.0, 1.0, 0.0, 2), ["min_agreement", "max_drop", "max_recall_drop"]),
    ):
        allowed = bounds.limits(bound, "fp32", bounds.Proof(), paired, {"a": 10, "b": 10})
        found = bounds.missed(allowed, paired, {"a": 10.0, "b": 0.0})
        assert [item.bound for item in found] == names
