"""Checkpoints as other trainers keep them: the weights are found, what was left out is told, and nothing is guessed."""

from __future__ import annotations

import argparse
import shlex
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.reading import Reading
from hemf_export.files.errors import BadInputError
from hemf_export.networks.registry import build, registered
from tests.conftest import CLASSES, TINY, tiny_checkpoint

STATE = tiny_checkpoint(config=TINY).state
OTHER = tiny_checkpoint(seed=1, config=TINY).state
SIZE = Reading(image_size=TINY.image_size)


def prefixed(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def saved(folder: Path, content: Any, name: str = "m.ckpt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def notes(path: Path, **arguments: Any) -> str:
    return "\n".join(checkpoint.load(path, **arguments).notes)


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "net", "network", "weights", "params", "module", "ema", "best"]
)
def test_weights_are_found_under_any_key_and_the_rest_is_named(tmp_path: Path, key):
    path = saved(tmp_path, {"epoch": 3, key: OrderedDict(STATE), "optimizer": {"state": {0: {"step": torch.ones(1)}}}})
    loaded = checkpoint.load(path)
    assert same(loaded.state, STATE)
    assert loaded.provenance["weights"] == key
    assert f"taken from {key!r}; left out: epoch, optimizer (2 in all)" in loaded.notes[0]


@pytest.mark.parametrize("prefix", ["model.", "net.", "module.model.", "_orig_mod.", "backbone._orig_mod.module."])
def test_a_prefix_that_all_names_carry_is_taken_off_and_told(tmp_path: Path, prefix):
    path = saved(tmp_path, prefixed(prefix))
    assert same(checkpoint.load(path).state, STATE)
    assert f"the keys with the prefix {prefix!r}" in notes(path)


def test_a_file_of_lightning(tmp_path: Path):
    content = {
        "epoch": 9, "global_step": 100, "pytorch-lightning_version": "2.4.0", "loops": {"fit_loop": {"state_dict": {}}},
        "state_dict": {**prefixed("net."), "criterion.weight": torch.ones(3), "accuracy.total": torch.zeros(())},
        "optimizer_states": [{"state": {}}], "lr_schedulers": [], "callbacks": {"EarlyStopping": {"best": 0.1}},
        "hyper_parameters": {"lr": 1e-3, "class_names": list(CLASSES)},
    }  # fmt: skip
    loaded = checkpoint.load(saved(tmp_path, content))
    assert same(loaded.state, STATE)
    assert loaded.classes == CLASSES
    told = loaded.notes[0]
    assert "taken from 'state_dict' with the prefix 'net.'" in told
    assert "state_dict.criterion.weight, state_dict.accuracy.total" in told
    assert "(10 in all)" in told


def test_a_state_dict_within_a_state_dict(tmp_path: Path):
    loaded = checkpoint.load(saved(tmp_path, {"checkpoint": {"state_dict": {"model": STATE}}}))
    assert same(loaded.state, STATE)
    assert loaded.provenance["weights"] == "checkpoint.state_dict.model"


@pytest.mark.parametrize("ema", ["state_dict_ema", "ema", "model_ema", "swa_model", "averaged"])
def test_of_a_network_and_its_mean_the_network_is_taken_and_the_way_to_the_other_told(tmp_path: Path, ema):
    path = saved(tmp_path, {ema: OTHER, "state_dict": STATE})
    loaded = checkpoint.load(path)
    assert same(loaded.state, STATE)
    assert f"under {ema!r}: `weights={ema!r}` takes them" in "\n".join(loaded.notes)
    other = checkpoint.load(path, reading=Reading(weights=ema))
    assert same(other.state, OTHER)
    assert other.provenance["weights"] == ema


def test_a_mean_in_the_same_dictionary(tmp_path: Path):
    path = saved(tmp_path, {"state_dict": {**prefixed("model."), **prefixed("ema_model.module.", OTHER)}})
    assert same(checkpoint.load(path).state, STATE)
    assert "`weights='state_dict.ema_model.module'` takes them" in notes(path)
    for wanted in ("state_dict.ema_model.module", "ema_model.module"):
        assert same(checkpoint.load(path, reading=Reading(wanted)).state, OTHER)


def test_two_networks_are_refused_with_both_named(tmp_path: Path):
    path = saved(tmp_path, {"teacher": OTHER, "student": STATE})
    with pytest.raises(BadInputError, match="2 sets of weights could be meant: 'teacher', 'student'") as caught:
        checkpoint.load(path)
    assert "`weights='teacher'` or `weights='student'`" in str(caught.value.hint)
    assert same(checkpoint.load(path, reading=Reading("teacher")).state, OTHER)


def test_two_networks_of_different_families_are_refused_with_both_named(tmp_path: Path):
    other = build(registered("convnext-narrow", num_classes=3), seed=0).state_dict()
    path = saved(tmp_path, {"teacher": STATE, "student": other})
    with pytest.raises(BadInputError, match="several networks: hemf under 'teacher', convnext under 'student'"):
        checkpoint.load(path)
    assert same(checkpoint.load(path, reading=Reading("teacher")).state, STATE)
    assert same(checkpoint.load(path, reading=Reading("student")).state, other)


def test_the_same_weights_twice_are_no_choice(tmp_path: Path):
    path = saved(tmp_path, {"model": STATE, "net": {name: value.clone() for name, value in STATE.items()}})
    assert same(checkpoint.load(path).state, STATE)


def test_a_set_that_is_not_whole_is_no_choice(tmp_path: Path):
    weights = {name: value for name, value in OTHER.items() if "running" not in name and "num_batches" not in name}
    path = saved(tmp_path, {"params": weights, "model": STATE})
    assert same(checkpoint.load(path).state, STATE)
    with pytest.raises(BadInputError, match=r"missing: .*running_mean"):
        checkpoint.load(path, reading=Reading("params"))


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path):
    path = saved(tmp_path, {"model": STATE, "ema": OTHER})
    with pytest.raises(BadInputError, match="no weights under 'emma'") as caught:
        checkpoint.load(path, reading=Reading("emma"))
    assert "'model', 'ema'" in str(caught.value.hint)


def test_a_prefix_that_only_some_names_carry_is_not_taken_off(tmp_path: Path):
    mixed = {name if name.startswith(("local", "head")) else f"model.{name}": value for name, value in STATE.items()}
    with pytest.raises(BadInputError, match=r"m\.ckpt.*missing"):
        checkpoint.load(saved(tmp_path, mixed))


@pytest.mark.parametrize(
    ("dtype", "told"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float64, "float64")]
)
def test_weights_of_other_types_are_taken_as_float32_and_told(tmp_path: Path, dtype, told):
    given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in STATE.items()}
    path = saved(tmp_path, {"state_dict": given}, "m.pth.tar")
    loaded = checkpoint.load(path)
    assert same(
        loaded.state, {name: value.float() if value.is_floating_point() else value for name, value in given.items()}
    )
    assert f"Its weights are {told}: taken as float32." in loaded.notes


@pytest.mark.parametrize("old", [False, True])
def test_tensors_saved_on_a_second_gpu_come_to_the_cpu(tmp_path: Path, monkeypatch, old):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:1")
    path = tmp_path / "m.pt"
    torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=not old)
    monkeypatch.undo()
    assert b"cuda:1" in path.read_bytes()
    loaded = checkpoint.load(path)
    assert same(loaded.state, STATE)
    assert {value.device.type for value in loaded.state.values()} == {"cpu"}


def test_counters_that_inference_never_reads_may_be_missing(tmp_path: Path):
    weights = {name: value for name, value in STATE.items() if not name.endswith("num_batches_tracked")}
    loaded = checkpoint.load(saved(tmp_path, weights), reading=SIZE)
    counters = {name: value for name, value in loaded.state.items() if name not in weights}
    assert counters
    assert all(value == 0 and value.dtype == torch.int64 for value in counters.values())
    assert f"{len(counters)} counters of BatchNorm" in loaded.notes[0]
    loaded.model()


@pytest.mark.parametrize(
    "text", ["bright,dark, striped", '["bright", "dark", "striped"]', '{"dark": 1, "bright": 0, "striped": 2}']
)
def test_class_names_in_the_metadata_of_safetensors(tmp_path: Path, text):
    path = tmp_path / "model.bin"
    path.write_bytes(to_safetensors({name: value.contiguous() for name, value in STATE.items()}, {"classes": text}))
    assert checkpoint.load(path).classes == CLASSES
    with pytest.raises(BadInputError, match="has the classes bright, dark, striped"):
        checkpoint.load(path, classes=("striped", "dark", "bright"))


def test_names_beside_the_weights_count_but_where_they_are_of_something_else(tmp_path: Path):
    path = saved(tmp_path, {"model": STATE, "class_to_idx": {"striped": 2, "bright": 0, "dark": 1}})
    assert checkpoint.load(path).classes == CLASSES
    path = saved(tmp_path, {"model": STATE, "classes": ["healthy", "ill"]})
    with pytest.raises(BadInputError, match="2 class names for 3 outputs") as caught:
        checkpoint.load(path)
    assert "`classes=(a, b, c)`" in str(caught.value.hint)
    assert checkpoint.load(path, classes=CLASSES).classes == CLASSES, "as the hint says"


def test_a_number_of_classes_is_no_name(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_safetensors({name: value.contiguous() for name, value in STATE.items()}, {"classes": "3"}))
    assert checkpoint.load(path).classes == ("class_0", "class_1", "class_2")


def test_an_image_size_that_nothing_says_is_assumed_aloud(tmp_path: Path):
    path = saved(tmp_path, STATE)
    loaded = checkpoint.load(path)
    assert loaded.config.image_size == loaded.preprocess.size == 224
    assert "224 pixels are assumed (`image_size=N` says another)" in "\n".join(loaded.notes)
    assert loaded.provenance["assumed"]["image_size"] == 224
    told = checkpoint.load(path, classes=CLASSES, reading=Reading(image_size=96))
    assert told.config.image_size == told.preprocess.size == 96
    assert told.notes == ()
    assert "assumed" not in told.provenance
    with pytest.raises(BadInputError, match="multiple of 32, not 100"):
        checkpoint.load(path, reading=Reading(image_size=100))


def test_a_file_of_ours_says_its_size_and_has_one_set_of_weights(tmp_path: Path):
    path = tmp_path / "ours.pt"
    checkpoint.save(tiny_checkpoint(config=TINY), path)
    assert checkpoint.load(path, reading=SIZE).config == TINY
    with pytest.raises(BadInputError, match=f"{TINY.image_size} pixels, not 96"):
        checkpoint.load(path, reading=Reading(image_size=96))
    with pytest.raises(BadInputError, match="one set of weights"):
        checkpoint.load(path, reading=Reading(weights="model"))


@pytest.mark.parametrize("old", [False, True])
def test_a_refused_class_is_named_with_the_line_that_takes_the_weights_out(tmp_path: Path, old):
    path = tmp_path / "it's a run.ckpt"
    content = {"state_dict": prefixed("model."), "hyper_parameters": argparse.Namespace(lr=0.1)}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(BadInputError, match=r"\(argparse\.Namespace\), which could run code: refused") as caught:
        checkpoint.load(path)
    (code,) = shlex.split(str(caught.value.hint).partition("python -c ")[2])
    exec(code, {})
    assert same(checkpoint.load(tmp_path / "it's a run.weights.pt").state, STATE)


def test_a_dictionary_in_a_circle_and_one_of_many_others_end(tmp_path: Path):
    content: dict[str, Any] = {"model": STATE}
    content |= {f"key{index}": content for index in range(300)}
    assert same(checkpoint.load(saved(tmp_path, content)).state, STATE)


def test_a_file_without_weights_names_what_it_has(tmp_path: Path):
    with pytest.raises(BadInputError, match="its keys: epoch, optimizer"):
        checkpoint.load(saved(tmp_path, {"epoch": 3, "optimizer": {"state": {}}}))
