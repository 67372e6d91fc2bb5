"""Initial weights: what is taken and left, another network refused, and a run that starts, and resumes, with them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.files.errors import BadInputError
from hemf_export.networks.registry import build, registered
from hemf_export.train import initial_weights
from tests import own_networks
from tests.conftest import CLASSES, THIRD, TINY, tiny_checkpoint
from tests.train.runs import ARGUMENTS

OTHERS = ("a", "b", "c", "d", "e")


def file_of_other_classes(folder, config=THIRD):
    saved = tiny_checkpoint(3, dataclasses.replace(config, num_classes=5), OTHERS)
    path = folder / "imagenet.pt"
    checkpoint.save(saved, path)
    return path, saved


def test_the_classifier_of_other_classes_is_left_and_all_else_taken(tmp_path):
    path, saved = file_of_other_classes(tmp_path)
    found = initial_weights.load(path, THIRD, CLASSES, PLAIN)
    assert found.left == ("head.weight", "head.bias")
    model = build(THIRD, seed=9)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    found.apply(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name] if name.startswith("head.") else saved.state[name]), name
    assert f"{len(saved.state) - 2} tensors taken; left: head.weight, head.bias" in found.describe()


def test_the_classifier_of_the_same_classes_is_taken_and_of_the_same_number_is_not(tmp_path):
    for classes, left in ((CLASSES, ()), (CLASSES[::-1], ("head.weight", "head.bias"))):
        checkpoint.save(tiny_checkpoint(1, THIRD, classes), tmp_path / "saved.pt")
        assert initial_weights.load(tmp_path / "saved.pt", THIRD, CLASSES, PLAIN).left == left


def test_a_bare_state_dict_names_no_classes_so_its_classifier_is_left(tmp_path):
    torch.save(tiny_checkpoint(1, TINY).state, tmp_path / "bare.pth")
    assert len(initial_weights.load(tmp_path / "bare.pth", TINY, CLASSES, PLAIN).left) == 2


def test_a_classifier_that_is_a_parameter_of_the_network_itself_is_left(tmp_path):
    name = f"{own_networks.__name__}:Prototypes"
    torch.save(own_networks.Prototypes(5).state_dict(), tmp_path / "own.pth")
    config = registered(name, num_classes=3, image_size=own_networks.SIZE)
    found = initial_weights.load(tmp_path / "own.pth", config, CLASSES, Reading(factory=name))
    assert found.left == ("prototypes",)
    assert set(found.taken) == {"patches.weight", "patches.bias"}


def test_another_network_is_refused_with_the_tensors_that_differ(tmp_path):
    path, _ = file_of_other_classes(tmp_path)
    with pytest.raises(BadInputError, match=r"which are not those of test .* tensors differ"):
        initial_weights.load(path, TINY, CLASSES, PLAIN)


def test_a_run_starts_from_them_says_so_and_resumes_with_them_alone(image_data, tmp_path, run_cli):
    start = ["train", image_data, "-o", tmp_path / "first", *ARGUMENTS, "--epochs", "1"]
    assert run_cli(*start)[0] == 0
    init = ["--init", tmp_path / "first" / "best.pt"]
    run = ["train", image_data, "-o", tmp_path / "run", *ARGUMENTS, "--epochs", "2", "--learning-rate", "1e-6"]
    code, _, err = run_cli(*run, *init)
    assert code == 0, err
    assert "Initial weights from best.pt:" in err
    first = checkpoint.load(tmp_path / "first" / "best.pt")
    saved = checkpoint.load(tmp_path / "run" / "best.pt")
    assert saved.provenance["init"] == {
        "file": "best.pt", "sha256": first.sha256, "taken": len(first.state), "left": []
    }  # fmt: skip
    weight = "local_stages.3.0.pointwise.weight"
    torch.testing.assert_close(saved.state[weight], first.state[weight], atol=1e-4, rtol=0)
    code, out, err = run_cli(*run, "--resume", "--json")
    assert code == 1
    assert "init: " in json.loads(out)["error"]
    assert run_cli(*run, *init, "--resume")[0] == 0
