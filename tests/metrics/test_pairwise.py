"""Tests of many pairs: McNemar's p-values and Holm's correction against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hemf_export.metrics.pairwise import compare_all, holm


def test_holm_multiplies_the_kth_smallest_and_keeps_the_order():
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 they are 0.02, 0.03, 0.06, 0.04; the last may not be smaller.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_each_pair_is_tested_on_the_images_that_only_one_has_right():
    # 10 images: b is right on 6 that a misses, and a on 0 that b misses: 2 · (1/2)^6 = 1/32.
    # c misses one of the images that b has right: 1 of 1 is 2 · 1/2 = 1. Against a, c has 5 and 0: 2 · (1/2)^5 = 1/16.
    a = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    b = np.ones(10, bool)
    c = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], bool)
    pairs = compare_all({"a": a, "b": b, "c": c})
    assert [(pair.first, pair.second, pair.only_first, pair.only_second) for pair in pairs] == [
        ("a", "b", 0, 6), ("a", "c", 0, 5), ("b", "c", 1, 0),
    ]  # fmt: skip
    assert [pair.p_value for pair in pairs] == pytest.approx([1 / 32, 1 / 16, 1])
    assert [pair.corrected for pair in pairs] == pytest.approx([3 / 32, 2 / 16, 1])
    assert pairs[0].to_dict()["corrected"] == pytest.approx(3 / 32)


def test_an_uneven_pair_counts_both_tails():
    # 1 and 4 of 5: (1 + 5) / 32 on each side.
    right = {"x": np.array([1, 0, 0, 0, 0, 1], bool), "y": np.array([0, 1, 1, 1, 1, 1], bool)}
    (pair,) = compare_all(right)
    assert (pair.only_first, pair.only_second) == (1, 4)
    assert pair.p_value == pair.corrected == pytest.approx(12 / 32)


def test_models_that_never_differ_have_no_evidence():
    (pair,) = compare_all({"x": np.ones(4, bool), "y": np.ones(4, bool)})
    assert (pair.p_value, pair.corrected) == (1.0, 1.0)
    assert compare_all({"x": np.ones(4, bool)}) == []
