"""ConvNeXt: the authors' numbers, an independent transcription, training, files, export."""

from __future__ import annotations

import pytest
import torch

from hemf_export.files.errors import BadInputError
from hemf_export.networks.convnext import LAYER_SCALE, ConvNeXtConfig
from hemf_export.networks.registry import build, registered

NARROW = "convnext-narrow"


def test_initial_weights():
    state = build(registered("convnext-narrow"), seed=0).state_dict()
    weights = torch.cat([value.flatten() for value in state.values() if value.ndim > 1])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.02)
    assert all(not value.any() for name, value in state.items() if name.endswith("bias"))
    assert all((value == LAYER_SCALE).all() for name, value in state.items() if name.endswith("gamma"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (3, 3, 3)}, "4 numbers"),
        ({"depths": (3, 3, 65, 3)}, "at most 64"),
        ({"width": 256, "depths": (64, 64, 64, 64)}, "weights"),
        ({"width": 257}, "at most 256"),
        ({"image_size": 48}, "multiple of 32"),
    ],
)
def test_configurations_that_ask_for_too_much_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        ConvNeXtConfig(**change)
