"""Training a user's own network: as any other, and checked before an image is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hemf_export
from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.reading import Reading
from hemf_export.files.errors import BadInputError, UsageError
from tests import own_networks
from tests.conftest import write_class_folders
from tests.own_networks import SIZE
from tests.train.runs import environment, free_port, lines

NETWORK = f"{own_networks.__name__}:"
FAST = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2}


def train(data: Path, output: Path, name: str, **settings: object) -> hemf_export.TrainResult:
    recipe = {**FAST, **settings.pop("recipe", {})}
    return hemf_export.train(
        data, output, model=f"{NETWORK}{name}", image_size=SIZE, recipe=recipe, device="cpu", **settings
    )


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "last.pt", reading=Reading(factory=f"{NETWORK}{name}")).state


@pytest.mark.parametrize("name", ["Normed", "ViewBySize", "Unused"])
def test_it_trains_and_its_best_epoch_goes_back_into_the_users_code(name, image_data, tmp_path):
    run = train(image_data, tmp_path / "run", name, recipe={"epochs": 2, "ema_decay": 0.9, "warmup_epochs": 0})
    assert run.manifest["epoch"] in (1, 2)
    model = getattr(own_networks, name)(3).eval()
    model.load_state_dict(weights(run.path, name))
    before = getattr(own_networks, name)(3)
    torch.manual_seed(0)
    assert not torch.equal(model.fc.weight, before.fc.weight)
    values = checkpoint.load(run.checkpoint, reading=Reading(factory=NETWORK + name)).config.to_dict()
    assert values == {
        "family": "own", "name": name, "num_classes": 3, "image_size": SIZE, "factory": NETWORK + name,
    }  # fmt: skip


def test_a_run_goes_on_to_the_bit_where_it_stopped(image_data, tmp_path, monkeypatch):
    """The run of two epochs is cut after the first, whose checkpoint is then what a kill leaves."""
    from hemf_export.train import trainer

    whole = train(image_data, tmp_path / "whole", "Normed", recipe={"epochs": 2})
    epoch = trainer.Trainer._epoch

    def first_alone(self, number, *others):
        if number == 1:
            raise KeyboardInterrupt
        epoch(self, number, *others)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_epoch", first_alone)
        with pytest.raises(KeyboardInterrupt):
            train(image_data, tmp_path / "cut", "Normed", recipe={"epochs": 2})
    cut = train(image_data, tmp_path / "cut", "Normed", recipe={"epochs": 2}, resume=True)
    assert lines(cut.path) == lines(whole.path)
    ours, theirs = weights(cut.path, "Normed"), weights(whole.path, "Normed")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("seven", "gives 7 scores for num_classes=3"),
        ("NotANumber", "holds a NaN"),
        ("TupleInTraining", "a tuple of 2 in training mode"),
        ("raises", "no weights for 3 classes"),
        ("nonesuch", "has no 'nonesuch'"),
    ],
)
def test_what_cannot_be_trained_is_told_before_an_image_is_read(name, said, tmp_path):
    for split in ("train", "val"):
        write_class_folders(tmp_path / "data" / split, 2)
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(BadInputError, match=said):
        train(tmp_path / "data", tmp_path / "run", name)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_it_has_no_variants_and_no_other_form_of_name(image_data, tmp_path):
    with pytest.raises(BadInputError, match=r"No variant of small is named 'local-only'\. It has none"):
        train(image_data, tmp_path / "run", "small", variant="local-only")
    for name in ("a b:c", "tests.own_networks"):
        with pytest.raises((BadInputError, UsageError), match=r"package\.module:function|No network is named"):
            hemf_export.train(image_data, tmp_path / "run", model=name)


def test_it_teaches_and_is_taught(image_data, tmp_path):
    teacher = train(image_data, tmp_path / "teacher", "Normed").checkpoint
    taught = {"recipe": {"distillation_weight": 0.5}, "teacher": teacher}
    with pytest.raises(BadInputError, match=f"own, {NETWORK}Normed, which a file can't make run"):
        train(image_data, tmp_path / "pupil", "small", **taught)
    run = train(image_data, tmp_path / "pupil", "small", teacher_model=f"{NETWORK}Normed", **taught)
    record = checkpoint.load(run.checkpoint, reading=Reading(factory=f"{NETWORK}small")).provenance["teacher"]
    assert record["model"] == "Normed"


def test_it_starts_from_weights_of_other_classes(image_data, tmp_path):
    torch.save(own_networks.Small(10).state_dict(), tmp_path / "ten.pth")
    run = train(image_data, tmp_path / "run", "small", init=tmp_path / "ten.pth", recipe={"learning_rate": 1e-9})
    ten = torch.load(tmp_path / "ten.pth")
    found = weights(run.path, "small")
    assert torch.allclose(found["patches.weight"], ten["patches.weight"], atol=1e-6)
    assert found["fc.weight"].shape == (3, own_networks.CHANNELS)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["Normed", "Unused"])
def test_two_processes_train_one_network(name, image_data, tmp_path):
    """One with parameters that take no part too, whose gradients would be waited for."""
    port, output = free_port(), tmp_path / "run"
    line = [
        sys.executable, "-m", "hemf_export", "train", image_data, "-o", output, "--model", f"{NETWORK}{name}",
        "--image-size", SIZE, "--epochs", 2, "--batch-size", 8, "--device", "cpu",
    ]  # fmt: skip
    started = [
        subprocess.Popen([*map(str, line)], env=environment(rank, 2, port), stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    told = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert len(lines(output)) == 2
    assert weights(output, name)
