"""Batch profiles as they are written on a command line and in manifests."""

from __future__ import annotations

import pytest

from hemf_export.engines.options import BatchProfile
from hemf_export.files.errors import UsageError


def test_profiles():
    assert BatchProfile.parse("1:8:32") == BatchProfile(1, 8, 32)
    assert BatchProfile.parse("4") == BatchProfile(4, 4, 4)
    for text in ("0:1:2", "4:2:8", "1:9:8", "1:2", "a:b:c", "-1"):
        with pytest.raises(UsageError):
            BatchProfile.parse(text)
