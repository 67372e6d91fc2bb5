"""Recipe files: what they set, what they refuse and how, and that a written one is read back."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.train.recipe import Recipe
from hemf_export.train.recipe_file import GROUPS, dump, load, resolve


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str | bytes) -> str:
        path = tmp_path / "recipe.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return written


EVERYTHING = Recipe(
    epochs=50, batch_size=16, accumulation_steps=2, learning_rate=3e-4, final_learning_rate=1e-7, warmup_epochs=5,
    warmup_start=0.01, weight_decay=0.05, gradient_clip=1.0, drop_path=0.1, ema_decay=0.9998, loss="focal",
    label_smoothing=0.1, focal_gamma=1.5, augmentation="rand", rand_operations=3, rand_magnitude=12.0, mixup_alpha=0.2,
    cutmix_alpha=1.0, sampling="class-balanced", sync_batch_norm=True, seed=2**63 - 1,
)  # fmt: skip


@pytest.mark.parametrize("recipe", [Recipe(), EVERYTHING], ids=["paper", "everything"])
def test_a_written_recipe_is_read_back(write, recipe):
    assert resolve(write(dump(recipe)), {}) == recipe
    assert tomllib.loads(dump(recipe)) == recipe.to_dict()


def test_every_field_is_in_one_group():
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(Recipe))


def test_fields_left_out_are_the_papers_and_given_ones_win(write):
    source = write("epochs = 7\nloss = 'focal'\n")
    assert resolve(source, {}) == Recipe(epochs=7, loss="focal")
    assert resolve(source, {"epochs": 9}) == Recipe(epochs=9, loss="focal")
    assert resolve("paper", {"epochs": 9}) == resolve(None, {"epochs": 9}) == Recipe(epochs=9)
    assert resolve(write(""), {}) == Recipe()


def test_named_recipes_are_whole_and_flags_win_over_them():
    assert resolve("best", {}) == Recipe(sampling="class-balanced")
    assert resolve("best", {"sampling": "shuffled", "seed": 4}) == Recipe(seed=4)
    assert load("best") is not load("best"), "a copy: nobody changes it for all"


def test_a_whole_number_serves_where_any_is_asked_for(write):
    value = load(write("gradient_clip = 1"))["gradient_clip"]
    assert (value, type(value)) == (1.0, float)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("epohcs = 3", "unknown key 'epohcs'", "Did you mean 'epochs'?"),
        ("batch-size = 3", "unknown key 'batch-size'", "Did you mean 'batch_size'?"),
        ("zzz = 1", "unknown key 'zzz'", "Known: accumulation_steps, "),
        ("[recipe]\nepochs = 3", "'recipe' is a table", "top level"),
        ("epochs = 'three'", 'epochs must be a whole number, not "three"', "epochs = 150"),
        ("epochs = 3.0", "epochs must be a whole number, not 3.0", "epochs = 150"),
        ("epochs = true", "epochs must be a whole number, not true", "epochs = 150"),
        ("epochs = [3]", "epochs must be a whole number, not [3]", "epochs = 150"),
        ("learning_rate = '1e-4'", "learning_rate must be a number", "learning_rate = 0.0001"),
        ("learning_rate = false", "learning_rate must be a number, not false", "learning_rate = 0.0001"),
        ("loss = 3", "loss must be a text in quotes, not 3", 'loss = "cross-entropy"'),
        ("seed = 2026-11-25", "seed must be a whole number", "seed = 0"),
        ("sync_batch_norm = 1", "sync_batch_norm must be true or false, not 1", "sync_batch_norm = false"),
        ("loss = 'focla'", "No loss is named 'focla'", "Did you mean 'focal'?"),
        ("epochs = 0", "epochs must be at least 1, not 0", None),
        ("learning_rate = nan", "learning_rate must be positive, not nan", None),
        ("focal_gamma = 1.0", "focal_gamma does nothing with loss 'cross-entropy'", "Choose loss 'focal'"),
    ],
)
def test_what_is_refused_names_the_file_the_key_and_the_way_out(write, text, message, hint):
    source = write(text)
    with pytest.raises(UsageError) as caught:
        resolve(source, {})
    assert caught.value.message.startswith(f"{source}: ")
    assert message in caught.value.message
    assert hint is None or hint in caught.value.hint


def test_a_flag_that_makes_no_sense_is_not_blamed_on_the_file(write):
    source = write("epochs = 3\nwarmup_epochs = 1")
    with pytest.raises(UsageError, match=r"^batch_size must be at least 2"):
        resolve(source, {"batch_size": 1})
    with pytest.raises(UsageError, match=r"^epochs must be at least 1, not 0"):
        resolve(source, {"epochs": 0})


@pytest.mark.parametrize("content", ["epochs 3", "epochs = ", b"\xff\xfe", "epochs = 1\nepochs = 2", b"\x89PNG"])
def test_what_is_not_toml_is_refused_with_a_start_for_a_file(write, content):
    source = write(content)
    with pytest.raises(BadInputError, match="is not a TOML file") as caught:
        load(source)
    assert source in caught.value.message
    assert "`recipe_file()`" in caught.value.hint


def test_no_file_no_name_and_a_folder(tmp_path):
    with pytest.raises(BadInputError, match=r"No recipe file at papre.*paper"):
        load("papre")
    with pytest.raises(BadInputError, match="can't be read as a recipe"):
        load(str(tmp_path))
