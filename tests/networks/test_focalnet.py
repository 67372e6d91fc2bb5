"""FocalNet: the authors' numbers, an independent transcription, training, files, export."""

from __future__ import annotations

import pytest
import torch

from hemf_export.files.errors import BadInputError
from hemf_export.networks.focalnet import FocalModulation, FocalNetConfig
from hemf_export.networks.registry import build, registered

NARROW = "focalnet-narrow"


def test_initial_weights():
    state = build(registered(NARROW), seed=0).state_dict()
    linears = [value.flatten() for name, value in state.items() if value.ndim == 2]
    assert float(torch.cat(linears).std()) == pytest.approx(0.02, rel=0.02)
    # Convolutions keep PyTorch's: uniform within ±1/√(inputs).
    convolution = state["layers.3.blocks.0.modulation.focal_layers.1.0.weight"]
    assert 0.19 < float(convolution.abs().max()) <= 0.2
    assert all(not value.any() for name, value in state.items() if name.endswith(("f.bias", "fc1.bias", "head.bias")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (3, 3, 3)}, "4 numbers"),
        ({"depths": (3, 3, 65, 3)}, "at most 64"),
        ({"width": 256, "depths": (64, 64, 64, 64)}, "weights"),
        ({"levels": 5}, "at most 4"),
        ({"width": 257}, "at most 256"),
        ({"image_size": 48}, "multiple of 32"),
    ],
)
def test_configurations_that_ask_for_too_much_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        FocalNetConfig(**change)


def test_folding_gives_the_first_products_multiples_of_8_outputs():
    model = build(registered(NARROW), seed=0).eval()
    sizes = [module.f.out_features for module in model.modules() if isinstance(module, FocalModulation)]
    model.fold()
    folded = [module.f.out_features for module in model.modules() if isinstance(module, FocalModulation)]
    assert sizes == [2 * channels + 3 for channels in (16, 32, 64, 64, 128)]
    assert folded == [2 * channels + 8 for channels in (16, 32, 64, 64, 128)]
