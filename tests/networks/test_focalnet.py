"""FocalNet: the authors' numbers, an independent transcription, training, files, export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.plain.focalnet import build as plain
from hemf_export.files.errors import BadInputError
from hemf_export.networks.focalnet import FocalModulation, FocalNetConfig
from hemf_export.networks.registry import build, registered
from tests.networks import peer_checks

NARROW = "focalnet-narrow"


@pytest.mark.extended
@pytest.mark.parametrize("name", ["focalnet-base-srf", "focalnet-base-lrf"])
def test_logits_and_every_stage_agree_with_the_authors_model(shared, authors, name):
    peer_checks.check_golden(shared, authors, name)


def test_parameters_are_the_authors():
    peer_checks.check_parameters("focalnet-base-srf", {7: 87_130_319, 1000: 88_148_144})
    peer_checks.check_parameters("focalnet-base-lrf", {7: 87_731_943, 1000: 88_749_768})


def test_an_independent_transcription_agrees_folded_or_not():
    peer_checks.check_transcription(NARROW, plain)


def test_gradients_agree_with_an_independent_transcription():
    peer_checks.check_gradients(NARROW, plain)


def test_training_reaches_every_parameter():
    peer_checks.check_training(NARROW)


def test_autocast_and_channels_last():
    peer_checks.check_autocast(NARROW)


def test_keys_are_recognized():
    peer_checks.check_recognition(NARROW)


def test_an_authors_file_is_read(tmp_path: Path):
    peer_checks.check_authors_file(tmp_path / "checkpoint.pth", NARROW)


def test_export_is_right_at_every_batch_size(tmp_path: Path):
    peer_checks.check_export(tmp_path, NARROW)


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
    assert FocalNetConfig.from_dict(FocalNetConfig().to_dict()) == FocalNetConfig()


def test_folding_gives_the_first_products_multiples_of_8_outputs():
    model = build(registered(NARROW), seed=0).eval()
    sizes = [module.f.out_features for module in model.modules() if isinstance(module, FocalModulation)]
    model.fold()
    folded = [module.f.out_features for module in model.modules() if isinstance(module, FocalModulation)]
    assert sizes == [2 * channels + 3 for channels in (16, 32, 64, 64, 128)]
    assert folded == [2 * channels + 8 for channels in (16, 32, 64, 64, 128)]
