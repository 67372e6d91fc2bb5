"""Golden images of an engine: written, read again, changed by somebody; and what a runner makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemf_export.engines import golden
from hemf_export.engines.golden import Golden, SelfTest
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput
from hemf_export.metrics.comparison import compare

PREPROCESS = Preprocess.for_size(8)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
LOGITS = np.array([[2, 0, -1], [0, 1, 3], [0.5, 0.4, 0], [-1, 2, 1.75]], np.float32)
KNOWN = Golden(PIXELS, LOGITS, "noise", 0.1)


class Answers:
    """A runner that has its logits ready, and keeps what it was given."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits, self.given = logits, np.zeros(0)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        self.given = batch
        return self.logits


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine file that has golden images."""
    path = tmp_path / "m.engine"
    path.write_bytes(b"plan")
    artifacts.write_manifest(path, {"golden": KNOWN.write(path)})
    return path


def manifest(engine: Path, **changes: Any) -> dict[str, Any]:
    found = json.loads(artifacts.manifest_path(engine).read_text())
    found["golden"] |= changes
    return {**found, "golden": {name: value for name, value in found["golden"].items() if value != "left out"}}


def test_they_come_back_as_they_were_written(engine):
    found = golden.read(engine, manifest(engine))
    np.testing.assert_array_equal(found.pixels, PIXELS)
    np.testing.assert_allclose(found.logits, LOGITS, atol=1e-6)
    assert (found.pixels.dtype, found.logits.dtype) == (np.uint8, np.float32)
    assert (found.source, found.max_logit_difference) == ("noise", 0.1)
    assert golden.place(engine).read_bytes() == PIXELS.tobytes(), "pixels and nothing else"


def test_an_engine_may_have_none(engine):
    assert golden.read(engine, {"kind": "engine"}) is None


def test_a_missing_file_is_told(engine):
    golden.place(engine).unlink()
    with pytest.raises(
        BadInputError, match=r"m\.engine\.golden, the golden images of m\.engine, is missing"
    ) as refused:
        golden.read(engine, manifest(engine))
    assert "Take it along with m.engine" in str(refused.value.hint)


@pytest.mark.parametrize("change", ["changed byte", "cut", "longer", "empty"])
def test_a_changed_file_is_refused(engine, change):
    data = bytearray(PIXELS.tobytes())
    data[100] ^= change == "changed byte"
    golden.place(engine).write_bytes(
        {"changed byte": data, "cut": data[:-1], "longer": data + b"x", "empty": b""}[change]
    )
    with pytest.raises(BadInputError, match=r"is not what the manifest of m\.engine describes"):
        golden.read(engine, manifest(engine))


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "0" * 64},
        {"sha256": None},
        {"sha256": "left out"},
        {"shape": [4, 8, 8]},
        {"shape": [4, 64, 3, 1]},
        {"shape": [1, 768, 1]},
        {"shape": [4, 8, 9, 3]},
        {"shape": [-4, -8, 8, 3]},
        {"shape": [4, -8, -8, 3]},
        {"shape": [4, 8, 8, "three"]},
        {"shape": 768},
        {"shape": None},
        {"shape": "left out"},
        {"logits": LOGITS[:3].tolist()},
        {"logits": LOGITS[:, 0].tolist()},
        {"logits": LOGITS[:, :, None].tolist()},
        {"logits": [[1, 2], [1, 2, 3], [1], []]},
        {"logits": [[float("nan")] * 3] * 4},
        {"logits": [[]] * 4},
        {"logits": "many"},
        {"logits": "left out"},
        {"max_logit_difference": None},
        {"max_logit_difference": float("inf")},
        {"max_logit_difference": float("nan")},
        {"max_logit_difference": -0.1},
        {"max_logit_difference": "left out"},
    ],
    ids=str,
)
def test_a_manifest_that_was_changed_is_refused(engine, changes):
    with pytest.raises(BadInputError, match="golden"):
        golden.read(engine, manifest(engine, **changes))


@pytest.mark.parametrize("entry", [[], "images", 3, {}, True])
def test_an_entry_that_is_none_is_refused(engine, entry):
    with pytest.raises(BadInputError, match="golden images"):
        golden.read(engine, {"golden": entry})


@pytest.mark.parametrize("raw", [False, True])
def test_the_graphs_own_logits_pass(raw):
    runner = Answers(LOGITS.copy())
    found = golden.check(runner, KNOWN, ModelInput(PREPROCESS, raw))
    assert found == SelfTest(compare(LOGITS, LOGITS), 0.1)
    assert found.passed
    np.testing.assert_array_equal(runner.given, PIXELS if raw else PREPROCESS.normalize(PIXELS))


def test_a_class_may_change_within_the_bound():
    logits = LOGITS + np.array([[0], [0], [1], [0]]) * np.array([-0.0625, 0.0625, 0], np.float32)
    found = golden.check(Answers(logits.astype(np.float32)), KNOWN, ModelInput(PREPROCESS, raw=True))
    assert (found.comparison.logit_difference.max, found.comparison.agreement) == (0.0625, 0.75)
    assert found.passed


@pytest.mark.parametrize("by", [0.125, -0.125])
def test_one_logit_over_the_bound_fails(by):
    logits = LOGITS.copy()
    logits[1, 0] += by
    found = golden.check(Answers(logits), KNOWN, ModelInput(PREPROCESS, raw=True))
    assert (found.comparison.logit_difference.max, found.bound, found.comparison.agreement) == (0.125, 0.1, 1.0)
    assert not found.passed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_logit_that_is_not_finite_fails_whatever_the_bound(value):
    logits = LOGITS.copy()
    logits[3, 2] = value
    known = Golden(PIXELS, LOGITS, "noise", float("inf"))
    found = golden.check(Answers(logits), known, ModelInput(PREPROCESS, raw=True))
    assert not found.comparison.finite
    assert not found.passed


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (1, 3), (4, 3, 1)])
def test_logits_of_another_shape_are_no_answer(shape):
    with pytest.raises(BadInputError, match="golden"):
        golden.check(Answers(np.zeros(shape, np.float32)), KNOWN, ModelInput(PREPROCESS, raw=True))
