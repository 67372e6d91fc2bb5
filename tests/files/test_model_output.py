"""What files give of an image is turned into scores once: decisions, differences and probabilities are then right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from hemf_export.files.errors import BadInputError
from hemf_export.files.model_output import ModelOutput
from hemf_export.metrics import classification
from hemf_export.metrics.comparison import compare

Z = np.random.default_rng(0).normal(0, 3, (200, 4)).astype(np.float32)
PAIR = np.stack([np.zeros(200), Z[:, 0]], 1)
GIVEN: dict[str, Any] = {
    "logits": Z, "probabilities": softmax(Z, axis=1), "logit": Z[:, :1], "probability": expit(Z[:, :1]),
}  # fmt: skip
TRUE: dict[str, Any] = {"logits": Z, "probabilities": Z, "logit": PAIR, "probability": PAIR}


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("axes", [(), (1, 1), (1,)], ids=str)
def test_class_and_probabilities_are_those_of_the_logits(kind: Any, axes: tuple[int, ...]):
    output = ModelOutput(kind)
    raw = GIVEN[kind].astype(np.float32).reshape(200, -1, *axes)
    scores = output.scores(raw, 200)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores.argmax(1), TRUE[kind].argmax(1))
    np.testing.assert_allclose(output.probabilities(scores), softmax(TRUE[kind], axis=1), atol=1e-6)
    np.testing.assert_allclose(np.exp(output.log_probabilities(scores)), softmax(TRUE[kind], axis=1), atol=1e-6)
    np.testing.assert_array_equal(output.tensor_scores(torch.from_numpy(raw)).numpy(), scores)


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_a_single_number_decides_at_its_border(kind: Any):
    output = ModelOutput(kind)
    values = np.float32(output.border) + np.array([-1e-6, 0, 1e-6, -0.4, 0.4], np.float32)
    assert output.scores(values, 5).argmax(1).tolist() == [0, 0, 1, 0, 1]


def test_float16_and_vectors_are_taken():
    assert ModelOutput("logit").scores(np.array([1, -2], np.float16), 2).tolist() == [[0, 1], [0, -2]]
    assert ModelOutput().scores(np.array([1, 2, 3], np.float16), 1).shape == (1, 3)
    assert ModelOutput("probability").scores(np.float32(0.25), 1).tolist() == [[0.75, 0.25]]


@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (8,), (0,), (2, 4)], ids=str)
def test_other_than_a_row_an_image_is_refused(shape: tuple[int, ...]):
    with pytest.raises(BadInputError, match="not one row for each"):
        ModelOutput().scores(np.zeros(shape, np.float32), 4)


@pytest.mark.parametrize("kind", GIVEN)
def test_a_comparison_says_the_same_of_logits_and_probabilities(kind: Any):
    """Agreement, chances and KL are of decisions and probabilities, however a file gives them."""
    output = ModelOutput(kind)
    noise = np.random.default_rng(1).normal(0, 0.3, Z.shape).astype(np.float32)
    moved: dict[str, Any] = {
        "logits": Z + noise, "probabilities": softmax(Z + noise, axis=1), "logit": (Z + noise)[:, :1],
        "probability": expit((Z + noise)[:, :1]),
    }  # fmt: skip
    labels = TRUE[kind].argmax(1)
    ours, theirs = (output.scores(one[kind].astype(np.float32), 200) for one in (moved, GIVEN))
    found = compare(ours, theirs, labels, output=output)
    pair = np.stack([np.zeros(200), (Z + noise)[:, 0]], 1)
    expected = compare(pair if output.single else Z + noise, TRUE[kind], labels)
    assert found.agreement == expected.agreement < 1, "two classes of a single number can change as well"
    assert found.accuracy == expected.accuracy
    assert found.kl_divergence == pytest.approx(expected.kl_divergence, rel=1e-3)
    assert found.kl_divergence > 0
    assert found.expected.changes == pytest.approx(expected.expected.changes, rel=1e-3)
    if output.of_probabilities:
        assert found.logit_difference.max == pytest.approx(np.abs(moved[kind] - GIVEN[kind]).max(), rel=1e-5)


@pytest.mark.parametrize("kind", GIVEN)
def test_figures_are_of_the_probabilities_that_a_file_gives(kind: Any):
    output = ModelOutput(kind)
    labels = np.random.default_rng(2).integers(0, TRUE[kind].shape[1], 200)
    names = [str(index) for index in range(TRUE[kind].shape[1])]
    found = classification.summarize(labels, output.scores(GIVEN[kind].astype(np.float32), 200), names, output)
    expected = classification.summarize(labels, TRUE[kind], names)
    for name in ("accuracy", "auc", "ece", "brier", "loss", "mcc"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_probabilities_that_do_not_sum_to_one_are_taken_as_they_are():
    output, rows = ModelOutput("probabilities"), np.array([[0.75, 0.5, 0.125]], np.float32)
    assert output.probabilities(output.scores(rows, 1)).tolist() == rows.tolist()
    found = classification.summarize([0], rows, ["a", "b", "c"], output)
    assert found["brier"] == pytest.approx(0.0625 + 0.25 + 0.015625)


def test_probabilities_of_exactly_zero_and_one_give_finite_figures():
    output = ModelOutput("probability")
    ours, theirs = (output.scores(np.array(values, np.float32), 3) for values in ([0, 1, 0.5], [1e-9, 1, 0.4]))
    found = compare(ours, theirs, np.array([0, 1, 0]), output=output)
    assert found.finite
    assert np.isfinite(found.kl_divergence)
    assert found.kl_divergence < 0.1
