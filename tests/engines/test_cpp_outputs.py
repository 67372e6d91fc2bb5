"""What a file gives of an image, in C++ as in Python: probabilities, and a single number for two classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax

from hemf_export.engines.golden import Golden
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.files.model_output import ModelOutput
from hemf_export.models.description import Description
from tests.engines.cpp_images import picture
from tests.engines.cpp_probe import Probe
from tests.engines.test_cpp_manifest import described

NORMAL = np.random.default_rng(7).normal(0, 4, (40, 3)).astype(np.float32)
SINGLE = np.concatenate([[0, -0.0, 1e-30, -1e-30, 60, -60, np.float32(1e38)], NORMAL[:30, 0]])[:, None].astype(
    np.float32
)
OUTPUTS: dict[str, Any] = {
    "probabilities": softmax(NORMAL, axis=1),
    "logit": SINGLE,
    "probability": np.concatenate([[0, 0.5, 1, 0.49999997, 0.50000006], expit(NORMAL[:30, 1])])[:, None],
}


def names(kind: str) -> list[str]:
    return ["benign", "malignant"] if ModelOutput(kind).single else ["a", "b", "c"]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", OUTPUTS)
def test_class_and_probabilities_are_pythons_to_the_last_digit(cpp: Probe, tmp_path: Path, kind: Any):
    image = tmp_path / "image.png"
    picture(40, 24).save(image)
    raw = OUTPUTS[kind].astype(np.float32)
    raw.tofile(tmp_path / "raw")
    path = described(tmp_path, classes=names(kind), output_type=kind)
    found = cpp.probe("predict", path, tmp_path / "raw", "json", 1, *[image] * len(raw))
    assert found.code == 0, found.err
    predictions = json.loads(found.out)["predictions"]
    output = ModelOutput(kind)
    scores = output.scores(raw, len(raw))
    assert [one["class"] for one in predictions] == [names(kind)[index] for index in scores.argmax(1)]
    ours = np.array([[one["probabilities"][name] for name in names(kind)] for one in predictions])
    theirs = output.probabilities(scores)
    if output.of_probabilities:
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-15, atol=0)


@pytest.mark.parametrize(("added", "code"), [(0.0, 0), (0.02, 0), (0.2, 3)])
def test_golden_images_of_a_single_number_are_tried(cpp: Probe, tmp_path: Path, added: float, code: int):
    raw = np.array([[0.1], [0.6], [0.3]], np.float32)
    path = described(tmp_path, classes=["no", "yes"], output_type="probability")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    entry = Golden(pixels, ModelOutput("probability").scores(raw, 3), "noise", 0.03).write(path)
    artifacts.write_manifest(path, {**(artifacts.read_manifest(path) or {}), "golden": entry})
    (raw + np.float32(added)).tofile(tmp_path / "raw")
    found = cpp.probe("golden", path, tmp_path / "raw", 1)
    assert found.code == code, found
    assert code == 0 or "a probability differs by 0.2, bound 0.03" in found.err


@pytest.mark.parametrize(
    "fields",
    [
        {"output_type": "scores"}, {"output_type": 3}, {"output_type": None},
        {"output_type": "logit", "classes": ["a", "b", "c"]}, {"classes": ["a"]},
    ],
    ids=str,
)  # fmt: skip
def test_an_output_without_sense_is_refused(cpp: Probe, tmp_path: Path, fields: dict[str, Any]):
    path = described(tmp_path, **fields)
    with pytest.raises(BadInputError, match=r"output_type|classes"):
        Description.from_manifest(path, artifacts.read_manifest(path) or {})
    found = cpp.probe("manifest", path)
    assert found.code == 1
    assert "output_type" in found.err or "classes" in found.err
