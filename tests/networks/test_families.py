"""What holds of every family of the paper's tables: an independent transcription, training, files, export."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hemf_export.networks import registry
from hemf_export.networks.registry import SIZES, family_of, registered
from hemf_export.networks.window_attention import relative_position_index
from tests.networks import peer_checks

NARROW = [name for name in SIZES if name.endswith("-narrow")]
PUBLISHED = [name for name in SIZES if name not in NARROW and not name.startswith("hemf-")]
# Conformer's and PerViT's statistics are of single modules; their tests have them.
WITH_FEATURES = [name for name in PUBLISHED if name not in ("conformer-base", "pervit-medium")]
# PerViT's distances are constants in float32.
PRECISION = {"pervit-narrow": 1e-6}

every_narrow = pytest.mark.parametrize("name", NARROW)


def transcription(name: str) -> Callable[..., nn.Module]:
    return importlib.import_module(f"benchmarks.plain.{SIZES[name].FAMILY}").build


def idle_tensors(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an authors' file that take no part, with indices and duplicates as in theirs."""

    def value(key: str, shape: tuple[int, ...]) -> Tensor:
        if key.endswith("_index"):
            return relative_position_index(2)
        return state[key.replace("EA_1", "ea.0")] if key.startswith("EA_1") else torch.zeros(shape)

    config = registered(name, num_classes=3)
    return {key: value(key, shape) for key, shape in family_of(config).layout.unused(config).items()}


@pytest.mark.extended
@pytest.mark.parametrize("name", WITH_FEATURES)
def test_logits_and_every_stage_agree_with_the_authors_model(shared, authors, name):
    peer_checks.check_golden(shared, authors, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_those_of_the_authors_checkpoint(shared, name):
    peer_checks.check_names(shared, name)


@every_narrow
def test_an_independent_transcription_agrees_folded_or_not_at_any_batch_size(name):
    peer_checks.check_transcription(name, transcription(name))


@every_narrow
def test_gradients_agree_with_an_independent_transcription(name):
    peer_checks.check_gradients(name, transcription(name), PRECISION.get(name, 1e-9))


@every_narrow
def test_training_reaches_every_parameter_and_is_seen_by_the_next_evaluation(name):
    peer_checks.check_training(name)


# Conformer's many BatchNorms, over four images, enlarge a half's rounding: its own test bounds its logits alone.
@pytest.mark.parametrize("name", [name for name in NARROW if name != "conformer-narrow"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_on_channels_last_images(name, dtype):
    peer_checks.check_autocast(name, dtype)


@pytest.mark.parametrize("name", SIZES)
def test_names_are_recognized_as_one_familys(name):
    peer_checks.check_recognition(name)


@every_narrow
def test_an_authors_file_is_read(name, tmp_path: Path):
    state = peer_checks.spread_network(registered(name, num_classes=3), 5).state_dict()
    peer_checks.check_authors_file(tmp_path / "checkpoint.pth", name, idle_tensors(name, state))


@pytest.mark.extended
@every_narrow
def test_the_exported_graph_is_right_at_every_batch_size(name, tmp_path: Path):
    peer_checks.check_export(tmp_path, name)


@pytest.mark.parametrize("name", SIZES)
def test_a_configuration_is_read_as_it_was_written(name):
    values = json.loads(json.dumps(SIZES[name].to_dict()))
    assert registry.config_from_dict(values) == SIZES[name]
