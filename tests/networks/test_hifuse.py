"""HiFuse: the authors' numbers, an independent transcription, windows, training, files, export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import BadInputError
from hemf_export.networks.drop_path import set_drop_path
from hemf_export.networks.hifuse import FAMILY, HiFuseConfig
from hemf_export.networks.registry import build, registered
from hemf_export.networks.window_attention import MASKED, Windows
from tests.networks.test_families import idle_tensors

NARROW = "hifuse-narrow"


def test_another_index_of_positions_is_refused(tmp_path: Path):
    state = build(registered(NARROW, num_classes=3), seed=0).state_dict()
    state |= idle_tensors(NARROW, state)
    name = "layers3.blocks.1.attn.relative_position_index"
    for other in (state[name].flip(0), torch.zeros(10**6)):  # the second would be the index of a huge window
        torch.save({**state, name: other}, tmp_path / "model.pth")
        with pytest.raises(BadInputError, match=f"{name} is not the index"):
            checkpoint.load(tmp_path / "model.pth")


def test_the_image_size_is_checked_for_the_network_that_the_tensors_are_of():
    state = build(registered(NARROW, num_classes=3), seed=0).state_dict()
    assert FAMILY.infer(state, 128) == registered(NARROW, num_classes=3, image_size=128)
    with pytest.raises(BadInputError, match="multiple of 64, not 96"):
        FAMILY.infer(state, 96)


@pytest.mark.parametrize(("side", "window", "shift"), [(8, 2, 0), (8, 2, 1), (14, 7, 3), (7, 7, 3), (4, 2, 1)])
def test_windows_and_their_mask(side, window, shift):
    windows = Windows(side, window, shift)
    maps = torch.randn(3, side, side, 5)
    rows = maps.reshape(-1, 5)
    cut = windows.cut(rows)
    assert torch.equal(windows.join(cut), rows)
    rolled = torch.roll(maps, (-shift, -shift), (1, 2))
    first = rolled[:, :window, side - window :].reshape(3, window**2, 5)
    assert torch.equal(cut.reshape(3, -1, window**2, 5)[:, side // window - 1], first)
    assert torch.equal(maps.flatten(1, 2)[:, windows.order()], cut.reshape(3, -1, 5))
    # Where a window's pixels come from: a difference of more than its side is a seam.
    if shift:
        place = torch.stack(torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij"), -1)
        place = torch.roll(place, (-shift, -shift), (0, 1))
        for window_row in range(side // window):
            for window_column in range(side // window):
                own = place[window_row * window :, window_column * window :][:window, :window].reshape(-1, 2)
                last = torch.tensor([window_row, window_column]) == side // window - 1
                wrapped = (own < shift) & last
                differs = (wrapped[:, None] != wrapped).any(-1)
                found = windows.mask()[window_row * (side // window) + window_column]
                assert torch.equal(found, differs * MASKED)


def test_initial_weights():
    model = build(registered(NARROW), seed=0)
    state = model.state_dict()
    branches = {key: value for key, value in state.items() if not key.startswith("fu") and value.ndim > 1}
    for kind, std in ((4, 0.2), (2, 0.02)):
        values = torch.cat([value.flatten() for value in branches.values() if value.ndim == kind])
        assert float(values.std()) == pytest.approx(std, rel=0.05)
    assert float(state["layers2.blocks.0.attn.relative_position_bias_table"].std()) > 0.01
    biases = [value for key, value in state.items() if key.endswith(".bias") and not key.startswith("fu")]
    assert not any(value.any() for value in biases)
    # The fusion blocks keep PyTorch's: uniform within ±1/√(inputs).
    limit = (9 * 24) ** -0.5
    assert 0.95 * limit < float(state["fu1.residual.conv1.conv.weight"].abs().max()) <= limit


def test_drop_path_rises_in_each_branch():
    model = build(registered(NARROW), seed=0)
    set_drop_path(model, 0.7)
    local = [block.drop_rates[0] for stage in model.stages for block in stage]
    global_ = [block.drop_rates[0] for stage in range(1, 5) for block in model.get_submodule(f"layers{stage}").blocks]
    assert local == global_ == pytest.approx([0.1 * index for index in range(8)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (2, 2, 2)}, "4 numbers"),
        ({"width": 512}, "at most 256"),
        ({"width": 80}, "multiple of head_channels, 32"),
        ({"depths": (2, 2, 65, 2)}, "at most 64"),
        ({"width": 256, "depths": (64, 64, 64, 64)}, "weights"),
        ({"image_size": 256}, "multiple of 224"),
        ({"window": 1}, "at least 2"),
        ({"window": 9, "image_size": 288}, "at most 8"),
        ({"image_size": 1024, "window": 8, "head_channels": 1}, "biases"),
    ],
)
def test_configurations_that_ask_for_too_much_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        HiFuseConfig(**change)
