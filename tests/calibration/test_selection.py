"""Which images calibrate and which are held out, on small folders and on lists of names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hemf_export.calibration.image_set import HELD_OUT_SHARE, ImageSet, check_pictures, select, stratified
from hemf_export.files.errors import BadInputError
from hemf_export.images.folders import LabelledImages
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput
from tests.conftest import CLASSES, write_images

SIZE = ModelInput(Preprocess.for_size(16))


def listed(*counts: int) -> LabelledImages:
    """Names alone, so many of each class."""
    labels = tuple(label for label, count in enumerate(counts) for _ in range(count))
    paths = tuple(Path(f"{label}/{index}.png") for index, label in enumerate(labels))
    return LabelledImages(Path(), tuple(map(str, range(len(counts)))), paths, labels)


def contents(images: ImageSet) -> list[bytes]:
    return [path.read_bytes() for path in images.images.paths]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Class folders without splits: 10 images of each of three classes."""
    root = tmp_path / "plain"
    for kind in CLASSES:
        write_images(root / kind, 10, kind, seed=5)
    return root


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 150), st.integers(0, 5))
@settings(deadline=None, max_examples=100)
def test_a_stratified_choice_has_the_count_each_class_and_no_image_twice(counts, count, seed):
    images = listed(*counts)
    chosen = stratified(images, count, seed)
    assert len(chosen) == min(count, sum(counts))
    assert len(set(chosen.paths)) == len(chosen)
    assert all(str(label) == path.parts[0] for path, label in zip(chosen.paths, chosen.labels, strict=True))
    if count >= len(counts):
        assert set(chosen.labels) == set(range(len(counts)))


def test_classes_keep_their_shares():
    chosen = stratified(listed(80, 160, 400), 64, 0)
    assert [chosen.labels.count(label) for label in range(3)] == [8, 16, 40]


def test_the_same_seed_gives_the_same_images_and_another_seed_others():
    images = listed(50, 50)
    first = stratified(images, 20, 1)
    assert stratified(images, 20, 1) == first
    assert stratified(images, 20, 2) != first


def test_a_data_folder_calibrates_on_train_and_holds_out_val(image_data):
    found = select(image_data, SIZE, CLASSES, count=6)
    assert {path.parts[-3] for path in found.calibration.images.paths} == {"train"}
    assert {path.parts[-3] for path in found.held_out.images.paths} == {"val"}
    assert (len(found.calibration), len(found.held_out)) == (6, 12)
    assert found.notes == ()


def test_labels_follow_the_order_of_the_models_classes(image_data):
    turned = CLASSES[::-1]
    for part in (found := select(image_data, SIZE, turned)).calibration, found.held_out:
        assert [turned[label] for label in part.labels] == [path.parent.name for path in part.images.paths]


def test_val_alone_is_divided_and_test_is_left_alone(image_data):
    shutil.rmtree(image_data / "train")
    found = select(image_data, SIZE, CLASSES)
    paths = found.calibration.images.paths + found.held_out.images.paths
    assert {path.parts[-3] for path in paths} == {"val"}
    assert len(set(paths)) == 12


@pytest.mark.parametrize("classes", [CLASSES, None])
def test_a_folder_without_splits_is_divided_with_nothing_in_both(plain, classes):
    found = select(plain, SIZE, classes, seed=3)
    assert len(found.held_out) == round(30 * HELD_OUT_SHARE)
    assert len(found.calibration) == 30 - len(found.held_out)
    assert not set(contents(found.calibration)) & set(contents(found.held_out))
    assert set(found.held_out.labels) == set(found.calibration.labels) == {0, 1, 2}
    assert "no splits: 9 of its images are held out" in found.notes[0]
    assert select(plain, SIZE, classes, seed=3) == found
    assert select(plain, SIZE, classes, seed=4) != found


def test_plain_images_without_classes_are_divided_too(tmp_path):
    write_images(tmp_path / "flat", 10, "dark")
    found = select(tmp_path / "flat", SIZE, CLASSES)
    assert found.calibration.labels is found.held_out.labels is None
    assert (len(found.calibration), len(found.held_out)) == (7, 3)
    assert found.calibration.to_dict()["classes"] == {}


def test_copies_of_calibration_images_are_not_held_out(image_data):
    for index in range(2):
        shutil.copy(image_data / f"train/dark/dark{index}.png", image_data / f"val/dark/copy{index}.png")
    found = select(image_data, SIZE, CLASSES)
    assert len(found.held_out) == 12
    assert not [path for path in found.held_out.images.paths if path.name.startswith("copy")]
    assert found.notes == ("2 held-out images are also in the calibration set; they are not counted.",)


def test_a_val_that_is_nothing_but_copies_is_refused(image_data):
    shutil.rmtree(image_data / "val")
    shutil.copytree(image_data / "train", image_data / "val")
    with pytest.raises(BadInputError, match=r"left for the held-out set.*`held_out"):
        select(image_data, SIZE, CLASSES)


def test_another_folder_may_be_held_out(image_data, plain):
    found = select(image_data, SIZE, CLASSES, held_out=plain)
    assert found.held_out.images.root == plain
    assert (len(found.calibration), len(found.held_out)) == (24, 30)


@pytest.mark.parametrize("classes", [CLASSES, None])
def test_one_class_is_refused_unless_allowed(plain, classes):
    for kind in CLASSES[1:]:
        shutil.rmtree(plain / kind)
    with pytest.raises(BadInputError, match=r"one class only.*`allow_single_class`"):
        select(plain, SIZE, classes)
    found = select(plain, SIZE, classes, allow_single_class=True)
    assert (len(found.calibration), len(found.held_out)) == (7, 3)
    assert set(found.calibration.labels) == {0}


def test_other_classes_are_refused_with_the_difference(plain):
    (plain / "dark").rename(plain / "dim")
    with pytest.raises(BadInputError, match="missing dark; unexpected dim"):
        select(plain, SIZE, CLASSES)
    with pytest.raises(BadInputError, match="missing dark; unexpected dim"):
        select(plain, SIZE, CLASSES, allow_single_class=True)


def test_a_missing_class_is_not_excused_by_allowing_one(plain):
    shutil.rmtree(plain / "dark")
    with pytest.raises(BadInputError, match="missing dark"):
        select(plain, SIZE, CLASSES, allow_single_class=True)


def test_no_folder_and_empty_ones_are_refused(tmp_path):
    with pytest.raises(BadInputError, match="not a folder"):
        select(tmp_path / "nowhere", SIZE, CLASSES)
    with pytest.raises(BadInputError, match="no image"):
        select(tmp_path, SIZE, CLASSES)
    write_images(tmp_path / "one", 1, "dark")
    with pytest.raises(BadInputError, match="has one image"):
        select(tmp_path / "one", SIZE, CLASSES)


def test_images_are_black_only_if_all_of_them_are(tmp_path):
    for index in range(6):
        folder = tmp_path / ("ab"[index % 2])
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(folder / f"{index}.png")
    found = LabelledImages(tmp_path, ("a", "b"), tuple(sorted(tmp_path.glob("*/*.png"))), (0, 0, 0, 1, 1, 1))
    images = ImageSet(found, SIZE)
    with pytest.raises(BadInputError, match=r"All 6 images of .* are black"):
        check_pictures(images)
    Image.new("RGB", (20, 20), (0, 0, 9)).save(found.paths[-1])
    check_pictures(images)


def test_the_summary_counts_classes_and_its_hash_follows_the_names(image_data):
    first = select(image_data, SIZE, CLASSES).calibration.to_dict()
    assert first["classes"] == dict.fromkeys(CLASSES, 8)
    assert (first["folder"], first["images"]) == ("train", 24)
    assert select(image_data, SIZE, CLASSES).calibration.to_dict() == first
    (image_data / "train/dark/dark0.png").rename(image_data / "train/dark/other.png")
    assert select(image_data, SIZE, CLASSES).calibration.to_dict()["names_sha256"] != first["names_sha256"]


def test_the_content_hash_follows_bytes_preprocessing_and_layout(image_data):
    images = select(image_data, SIZE, CLASSES).calibration
    path = images.images.paths[0]
    before = images.content_sha256()
    path.rename(path.with_name("aaa.png"))
    renamed = select(image_data, SIZE, CLASSES).calibration
    assert renamed.content_sha256() == before, "names don't matter to what is computed"
    smaller, raw = ModelInput(Preprocess.for_size(8)), ModelInput(SIZE.preprocess, raw=True)
    others = ImageSet(renamed.images, smaller), ImageSet(renamed.images, raw)
    assert len({before, *(other.content_sha256() for other in others)}) == 3
    shutil.copy(renamed.images.paths[9], path.with_name("aaa.png"))
    assert renamed.content_sha256() != before


@pytest.mark.parametrize("batch", [5, 12])
def test_a_fixed_batch_gives_whole_batches_only(image_data, batch):
    found = select(image_data, SIZE, CLASSES, batch=batch)
    assert (len(found.calibration), len(found.held_out)) == (24 - 24 % batch, 12 - 12 % batch)
    assert {len(pixels) for pixels in found.calibration.batches(4)} == {batch}
    assert len(found.calibration.only([0, 1])) == batch


def test_a_fixed_batch_larger_than_what_there_is_is_refused(image_data):
    with pytest.raises(BadInputError, match=r"gives 12 images; the graph's fixed batch is 13.*`batch='dynamic'`"):
        select(image_data, SIZE, CLASSES, batch=13)


@pytest.mark.parametrize("raw", [True, False])
def test_batches_are_the_networks_input(image_data, raw):
    images = select(image_data, ModelInput(SIZE.preprocess, raw), CLASSES, count=5).calibration
    parts = list(images.batches(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    pixels = np.stack([SIZE.load(path) for path in images.images.paths])
    expected = pixels if raw else ((pixels / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-6)
