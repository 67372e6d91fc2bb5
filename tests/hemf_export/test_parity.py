"""Parity: what counts as the same, and what never does."""

from __future__ import annotations

import numpy as np
import pytest

from hemf_export.export.parity import Parity, Samples
from hemf_export.files.errors import CheckFailedError
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput
from hemf_export.metrics.comparison import compare

BASE = np.array([[1.0, 2.0], [3.0, 0.0]], np.float32)


def parity(candidate, reference=BASE):
    return Parity(compare(np.asarray(candidate, np.float32), np.asarray(reference, np.float32)), "test", (2,))


def test_the_bounds():
    parity(BASE + 0.01).require("x", option="`tolerance`", max_difference=0.02, min_agreement=1.0)
    with pytest.raises(CheckFailedError, match=r"a logit differs by 0\.01") as caught:
        parity(BASE + 0.01).require("x", option="`tolerance`", max_difference=0.005)
    assert "largest logit is 3" in str(caught.value.hint)
    assert "set `tolerance`" in str(caught.value.hint)
    with pytest.raises(CheckFailedError, match=r"50.00% of 2 images"):
        parity([[1.0, 2.0], [3.0, 3.1]]).require("x", option="`tolerance`", max_difference=9, min_agreement=0.9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_no_parity_even_on_both_sides(value):
    bad = np.array([[1.0, value], [3.0, 0.0]])
    for candidate, reference in ((bad, BASE), (BASE, bad), (bad, bad)):
        with pytest.raises(CheckFailedError, match="not finite"):
            parity(candidate, reference).require("x", option="`tolerance`", max_difference=1e9)


def test_noise_is_the_same_every_time_and_fills_the_batches():
    first, second = (list(Samples(ModelInput(Preprocess.for_size(32)), None, 8).pixels((1, 3, 4))) for _ in range(2))
    assert [len(part) for part in first] == [1, 3, 4]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
