"""UniFormer: the authors' numbers, an independent transcription, training, files, export."""

from __future__ import annotations

import pytest
import torch

from hemf_export.files.errors import BadInputError
from hemf_export.networks.drop_path import set_drop_path
from hemf_export.networks.registry import build, registered
from hemf_export.networks.uniformer import UniFormerConfig

NARROW = "uniformer-narrow"


def test_initial_weights():
    state = build(registered(NARROW), seed=0).state_dict()
    linears = [value.flatten() for value in state.values() if value.ndim == 2]
    assert float(torch.cat(linears).std()) == pytest.approx(0.02, rel=0.02)
    # Convolutions keep PyTorch's: uniform within ±1/√(inputs).
    assert 0.19 < float(state["blocks1.0.attn.weight"].abs().max()) <= 0.2
    assert all(
        not value.any()
        for name, value in state.items()
        if name.endswith(("qkv.bias", "proj.bias")) and "blocks" in name
    )


def test_both_kinds_of_blocks_form_one_order_of_depth():
    model = build(registered(NARROW), seed=0)
    set_drop_path(model, 0.4)
    rates = [block.drop_rates[0] for stage in range(1, 5) for block in model.get_submodule(f"blocks{stage}")]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (3, 3, 3)}, "4 numbers"),
        ({"widths": (64, 128, 320)}, "4 numbers"),
        ({"widths": (64, 128, 300, 512)}, "multiples of head_channels"),
        ({"depths": (3, 3, 65, 3)}, "at most 64"),
        ({"widths": (64, 128, 320, 1024), "depths": (1, 1, 1, 64)}, "weights"),
        ({"widths": (64, 128, 320, 1088)}, "at most 1,024"),
        ({"image_size": 48}, "multiple of 32"),
        ({"image_size": 1024, "head_channels": 1}, "attention scores, more than"),
    ],
)
def test_configurations_that_ask_for_too_much_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        UniFormerConfig(**change)
