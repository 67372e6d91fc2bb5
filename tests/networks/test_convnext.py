"""ConvNeXt: the authors' numbers, an independent transcription, training, files, export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.plain.convnext import build as plain
from hemf_export.files.errors import BadInputError
from hemf_export.networks.convnext import LAYER_SCALE, ConvNeXtConfig
from hemf_export.networks.registry import build, registered
from tests.networks import peer_checks

NARROW = "convnext-narrow"


@pytest.mark.extended
def test_logits_and_every_stage_agree_with_the_authors_model(shared, authors):
    peer_checks.check_golden(shared, authors, "convnext-base")


def test_parameters_are_the_authors():
    peer_checks.check_parameters("convnext-base", {7: 87_573_639, 1000: 88_591_464})


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
    assert ConvNeXtConfig.from_dict(ConvNeXtConfig().to_dict()) == ConvNeXtConfig()
