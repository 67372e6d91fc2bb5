"""Figures of a classifier, worked out by hand."""

from __future__ import annotations

import math

import numpy as np

from train.metrics import summarize


def test_figures_of_a_small_case():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]], np.float32))
    figures = summarize([0, 1, 1, 1], logits, ("a", "b", "c"))
    assert figures["confusion"] == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert figures["accuracy"] == 0.75
    assert figures["recall"] == {"a": 1.0, "b": 2 / 3, "c": 0.0}
    assert math.isclose(figures["balanced_accuracy"], (1 + 2 / 3) / 2)  # of the classes that there are
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.5) + math.log(0.6)) / 4
    assert math.isclose(figures["loss"], expected, rel_tol=1e-5)


def test_huge_logits_do_not_overflow():
    assert summarize([0], np.array([[1e30, 0.0]], np.float32), ("a", "b"))["loss"] == 0.0
