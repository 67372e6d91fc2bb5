"""Intervals of shares, beside SciPy's own test of a proportion."""

from __future__ import annotations

import pytest
from scipy import stats

from hemf_export.metrics import intervals


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 60), (60, 60), (59, 60), (977, 1000)])
def test_the_interval_of_a_share_is_clopper_pearsons(count: int, total: int):
    expected = stats.binomtest(count, total).proportion_ci(0.95, "exact")
    assert intervals.of_share(count, total) == pytest.approx((expected.low, expected.high))
