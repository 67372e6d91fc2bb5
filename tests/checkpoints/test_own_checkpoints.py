"""Checkpoints of a user's own network: read with its code's name alone, which the user says and no file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.models.description import Description
from hemf_export.models.model_file import ModelFile
from hemf_export.networks import own
from tests import own_networks
from tests.conftest import CLASSES, tiny_checkpoint
from tests.own_networks import SIZE

SMALL = f"{own_networks.__name__}:small"
SAID = Reading(factory=SMALL)


def saved(path: Path, name: str = SMALL) -> Path:
    config = own.named(SMALL, num_classes=3, image_size=SIZE)
    torch.manual_seed(1)
    state = {key: value.detach() for key, value in own_networks.Small(3).state_dict().items()}
    object.__setattr__(config, "factory", name)  # what a file says may be anything
    checkpoint.save(Checkpoint(config, CLASSES, Preprocess.for_size(SIZE), state), path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_comes_back_as_the_users_own_network(suffix, tmp_path):
    read = checkpoint.load(saved(tmp_path / f"best{suffix}"), reading=SAID)
    assert (read.config.name, read.classes) == ("small", CLASSES)
    model = own_networks.Small(3).eval()
    model.load_state_dict(read.state)  # the user's own names
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.allclose(read.model()(images), model(images), atol=1e-6)


def test_without_the_name_or_with_another_nothing_is_read(tmp_path):
    path = saved(tmp_path / "best.pt")
    with pytest.raises(BadInputError, match=f"own, {SMALL}, which a file can't make run.*`factory='{SMALL}'`"):
        checkpoint.load(path)
    other = SMALL.replace("small", "Small")
    with pytest.raises(BadInputError, match=f"is {SMALL}, not {other}"):
        checkpoint.load(path, reading=Reading(factory=other))
    checkpoint.save(tiny_checkpoint(), path)
    with pytest.raises(
        BadInputError, match=r"its network is test-local-only, not one of your own \(tests.*Leave out `factory`"
    ):
        checkpoint.load(path, reading=SAID)


@pytest.mark.parametrize("planted", ["planted_in_a_checkpoint:make", "os:system"])
def test_code_that_a_checkpoint_names_is_never_imported(planted, tmp_path, monkeypatch, run_cli):
    (tmp_path / "planted_in_a_checkpoint.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nmake = print\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("os.system", lambda *_, **__: (tmp_path / "ran").touch())
    path = saved(tmp_path / "best.pt", planted)
    for reading in (PLAIN, SAID):
        with pytest.raises(BadInputError, match=planted):
            checkpoint.load(path, reading=reading)
    (tmp_path / "a.png").write_bytes(b"")
    for line in (["info", path], ["inspect", path], ["onnx", path, "-o", tmp_path / "a.onnx"], ["onnx", path, "-o",
                 tmp_path / "a.onnx", "--model", SMALL], ["evaluate", path, "--data", tmp_path]):  # fmt: skip
        code, _, err = run_cli(*line)
        assert code == 1
        assert planted in err
    assert not (tmp_path / "ran").exists()
    assert "planted_in_a_checkpoint" not in sys.modules


def test_the_name_is_neither_saved_in_a_description_nor_read_from_one(tmp_path):
    described = ModelFile.open(saved(tmp_path / "best.pt"), reading=SAID).description
    assert described.reading.factory == SMALL
    values = described.to_dict()
    assert "reading" not in values
    assert Description.from_dict(values).reading.factory is None
    with pytest.raises(ValueError, match="the reading of the checkpoint has 'factory'"):
        Description.from_dict({**values, "reading": {"factory": SMALL}})
    assert Reading("ema", 96, SMALL).to_dict() == {"weights": "ema", "image_size": 96}


def test_what_a_file_records_is_read_with_the_users_word():
    recorded = Reading("ema", 96)
    assert SAID.or_recorded(recorded) == recorded
    assert SAID.or_recorded(recorded).factory == SMALL
    assert Reading("model").or_recorded(recorded) == Reading("model")
    assert PLAIN.or_recorded(recorded).factory is None
    assert [one.given for one in (PLAIN, SAID, recorded)] == [False, True, True]


def state(name: str = "small", num_classes: int = 5) -> dict[str, torch.Tensor]:
    return dict(getattr(own_networks, name)(num_classes).state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module."])
@pytest.mark.parametrize("name", ["small", "scripted", "wrapped", "Normed"])
def test_a_bare_state_dict_is_read_wherever_it_is(name, prefix, tmp_path):
    content = {f"{prefix}{key}": value for key, value in state(name).items()}
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": content, "epoch": 3}, path)
    read = checkpoint.load(path, reading=Reading(image_size=SIZE, factory=f"{own_networks.__name__}:{name}"))
    assert list(read.state) == list(state(name))
    assert read.config.num_classes == 5
    assert read.config.image_size == SIZE
    assert read.classes == tuple(f"class_{index}" for index in range(5))


def test_a_state_dict_of_another_network_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(state("Normed"), path)
    with pytest.raises(BadInputError, match=r"not this network's: 21 unexpected: before\.weight"):
        checkpoint.load(path, reading=SAID)
    torch.save({"other": torch.zeros(3)}, path)
    with pytest.raises(BadInputError, match=r"holds no state dict of .*small; its keys: other.*fc, patches"):
        checkpoint.load(path, reading=SAID)
    torch.save(state(), path)
    with pytest.raises(BadInputError, match="of a network of your own, say so"):
        checkpoint.load(path)
