"""Lists of configurations: what they mean, and what a hostile one gets."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.networks import registry
from hemf_export.networks.hemf.variants import TABLE_10
from hemf_export.networks.published import NETWORKS
from hemf_export.train import ablation, configurations
from hemf_export.train.recipe import Recipe
from tests.conftest import PROJECT

BASE = Recipe(epochs=7, learning_rate=1e-3)


def listed(tmp_path: Path, text: str | bytes):
    path = tmp_path / "list.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return configurations.read(path, BASE)


def test_what_a_configuration_leaves_out_comes_from_the_command(tmp_path):
    first, second = listed(
        tmp_path,
        '[[configuration]]\nname = "a"\nvariant = "both"\nepochs = 3\nweight_decay = 0\n\n[[configuration]]\nname="b"',
    )
    assert (first.name, first.variant, first.recipe.epochs, first.recipe.weight_decay) == ("a", "both", 3, 0.0)
    assert first.recipe.learning_rate == 1e-3
    assert (second.variant, second.recipe) == ("full", BASE)


def test_the_examples_list_the_papers_networks_and_a_small_one_of_each_architecture():
    whole = tomllib.loads((PROJECT / "examples" / "tables.toml").read_text())["configuration"]
    small = tomllib.loads((PROJECT / "examples" / "tables-narrow.toml").read_text())["configuration"]
    assert {one["model"] for one in whole} == {one["name"] for one in whole} == set(NETWORKS)
    architectures = {name.split("-")[0] for name in NETWORKS}
    assert {one["model"].split("-")[0] for one in small} == architectures
    assert {one["model"] for one in small} == {one["name"] for one in small}


@pytest.mark.parametrize("name", ["tables.toml", "tables-narrow.toml"])
def test_the_examples_are_lists_of_registered_networks_that_take_one_size(name):
    path = PROJECT / "examples" / name
    size = 64 if "narrow" in name else 224
    for one in configurations.read(path, BASE):
        assert one.model is not None
        assert registry.registered(one.model, image_size=size).image_size == size


def test_by_default_they_are_table_10():
    assert [(each.name, each.variant, each.recipe) for each in configurations.table_10(BASE)] == [
        (name, name, BASE) for name in TABLE_10
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[configuration]]\nname = "a"\nepocs = 3', "Did you mean 'epochs'?"),
        ('[[configuration]]\nname = "a"\nvarient = "both"', "Did you mean 'variant'?"),
        ('[[configuration]]\nname = "a"\nvariant = "both+mhae"', "Did you mean 'both+mhea'?"),
        ('[[configuration]]\nname = "a"\nvariant = ["both"]', "No variant"),
        ('[[configuration]]\nname = "../../x"', "can't be named '../../x'"),
        ('[[configuration]]\nname = ""', "can't be named ''"),
        ('[[configuration]]\nname = 3', "can't be named 3"),
        ('[[configuration]]\nname = "ablation.json"', "can't be named"),
        ("[[configuration]]\nepochs = 3", "has no name"),
        ('[[configuration]]\nname = "a"\n[[configuration]]\nname = "A"', "Two configurations are named 'a'"),
        ('[configuration]\nname = "a"', "has no configuration"),
        ("configuration = [1, 2]", "has no configuration"),
        ("", "has no configuration"),
        ('[[configurations]]\nname = "a"', "unknown key 'configurations'"),
        ('[[configuration]]\nname = "a"\nepochs = "3"', "epochs must be a whole number, not \"3\""),
        ('[[configuration]]\nname = "a"\nepochs = true', "epochs must be a whole number, not true"),
        ('[[configuration]]\nname = "a"\nepochs = 3.0', "epochs must be a whole number, not 3.0"),
        ('[[configuration]]\nname = "a"\nepochs = 0', "epochs must be at least 1"),
        ('[[configuration]]\nname = "a"\nfocal_gamma = 3.0', "focal_gamma does nothing with loss 'cross-entropy'"),
        ('[[configuration]]\nname = "a"\nlearning_rate = nan', "learning_rate must be positive"),
        ('[[configuration]]\nname = "a"\nlearning_rate = 1970-01-01', "learning_rate must be a number"),
        (f'[[configuration]]\nname = "a"\nlearning_rate = {10**400}', "learning_rate is beyond 64 bits"),
        ('[[configuration]]\nname = "a"\n[configuration.epochs]\nx = 1', "epochs must be a whole number"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_wrong_usage_and_told(tmp_path, text, message):
    with pytest.raises(UsageError) as refused:
        listed(tmp_path, text)
    assert message in str(refused.value)
    assert "list.toml" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe", b"[[configuration", b"a = " + b"[" * 100_000, b"#" * 1_000_001, b"a = 1\na = 2"],
    ids=["not UTF-8", "cut", "nested", "large", "twice"],
)
def test_what_is_not_toml_is_bad_input(tmp_path, text):
    with pytest.raises(BadInputError, match=r"list\.toml"):
        listed(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInputError, match="can't be read"):
        configurations.read(tmp_path / "no.toml", BASE)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadInputError, match="is not a file"):
        configurations.read(tmp_path / "fifo", BASE)


def test_seeds_may_be_added_later_without_moving_a_run(tmp_path):
    listed = configurations.table_10(BASE)[:2]
    assert [member.folder.name for member in ablation.plan(listed, tmp_path)] == ["local-only", "global-only"]
    members = ablation.plan(listed, tmp_path, [0, 4])
    assert [(member.folder.name, member.seed) for member in members] == [
        ("local-only", 0), ("global-only", 0), ("local-only-seed4", 4), ("global-only-seed4", 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seeds", "message"),
    [
        ('[[configuration]]\nname = "a"\nseed = 3', [0], "has a seed of its own"),
        ('[[configuration]]\nname = "a"', [1, 1], "must differ"),
        ('[[configuration]]\nname = "a"\n[[configuration]]\nname = "a-seed1"', [0, 1], "Two runs would lie in"),
    ],
)
def test_seeds_that_contradict_are_refused(tmp_path, text, seeds, message):
    with pytest.raises(UsageError, match=message):
        ablation.plan(listed(tmp_path, text), tmp_path, seeds)
