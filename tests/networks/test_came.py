"""CAME: the numbers of HEMF's authors, an independent transcription, external attention, training, files, export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.plain.came import External
from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import BadInputError
from hemf_export.networks.came import CameConfig, ExternalAttention
from hemf_export.networks.drop_path import set_drop_path
from hemf_export.networks.registry import build, registered
from tests.networks.test_families import idle_tensors

NARROW = "came-narrow"


def test_a_file_whose_duplicates_differ_is_refused(tmp_path: Path):
    state = build(registered(NARROW, num_classes=3), seed=0).state_dict()
    state |= idle_tensors(NARROW, state)
    state["EA_1.1.mk.weight"] = state["EA_1.1.mk.weight"] + 1
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(BadInputError, match=r"EA_1\.1\.mk\.weight and ea\.0\.1\.mk\.weight differ"):
        checkpoint.load(tmp_path / "model.pth")


def test_external_attention_where_the_published_form_divides_0_by_0():
    attention, published = ExternalAttention(16, 8).eval(), External(16, 8).eval()
    published.load_state_dict(attention.state_dict())
    maps = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(attention(maps), published(maps), atol=1e-5, rtol=1e-5)
        for each in (attention, published):
            each.mk.weight.mul_(1000)  # scores of hundreds: a softmax over the pixels is 0 in all but one place
        assert published(maps).isnan().any()
        found = attention(maps)
        exact = attention.double()(maps.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=1e-3)


def test_initial_weights():
    state = build(registered(NARROW), seed=0).state_dict()
    kept = ("fu", "ea.")
    branches = {key: value for key, value in state.items() if not key.startswith(kept) and value.ndim > 1}
    for kind, std in ((4, 0.2), (2, 0.02)):
        values = torch.cat([value.flatten() for value in branches.values() if value.ndim == kind])
        assert float(values.std()) == pytest.approx(std, rel=0.05)
    memories = [value.flatten() for key, value in state.items() if key.endswith(("mk.weight", "mv.weight"))]
    assert float(torch.cat(memories).std()) == pytest.approx(0.001, rel=0.05)
    biases = [value for key, value in state.items() if key.endswith(".bias") and not key.startswith(kept)]
    assert not any(value.any() for value in biases)
    # The branch of external attention keeps PyTorch's strided convolutions: uniform within ±1/√(inputs).
    limit = 32**-0.5
    assert 0.95 * limit < float(state["ea.1.0.weight"].abs().max()) <= limit


def test_drop_path_rises_in_each_branch():
    model = build(registered(NARROW), seed=0)
    set_drop_path(model, 0.6)
    local = [block.drop_rates[0] for stage in model.stages for block in stage]
    global_ = [block.drop_rates[0] for stage in model.basic_layers for block in stage.blocks]
    assert local == global_ == pytest.approx([0.1 * index for index in range(7)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_slots": 0}, "memory_slots"),
        ({"memory_slots": 2048}, "at most 1,024"),
        ({"width": 256, "depths": (64, 64, 64, 64)}, "weights"),
        ({"image_size": 256}, "multiple of 224"),
    ],
)
def test_configurations_that_ask_for_too_much_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        CameConfig(**change)
