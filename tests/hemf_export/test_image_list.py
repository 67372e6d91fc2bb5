"""The images that a user names: any tree is taken, in a fixed order, and nothing is silently left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemf_export.files.errors import BadInputError
from hemf_export.images import image_list
from tests.conftest import CLASSES, write_images


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three pictures at three depths, and what else lies in folders."""
    root = tmp_path / "tree"
    write_images(root, 1, "plain")
    write_images(root / "b" / "deep.png", 1, "dark")  # a folder, whatever its name
    write_images(root / "a", 1, "bright")
    write_images(root / ".hidden", 1, "bright")
    (root / "a" / ".DS_Store").write_bytes(b"")
    (root / "b" / "labels.csv").write_text("")
    return root


def test_images_at_any_depth_are_sorted_and_the_rest_is_told(tree):
    found = image_list.collect([str(tree)])
    assert found.paths == (tree / "a/bright0.png", tree / "b/deep.png/dark0.png", tree / "plain0.png")
    assert found.passed_over == (tree / "b/labels.csv",)


def test_files_that_are_named_keep_their_order_whatever_they_are_called(tree):
    named = [tree / "plain0.png", tree / "a", tree / "b/labels.csv", tree / "plain0.png"]
    found = image_list.collect(named)
    assert found.paths == (tree / "plain0.png", tree / "a/bright0.png", tree / "b/labels.csv", tree / "plain0.png")
    assert found.folders == (None, tree / "a", None, None)


def test_links_to_folders_are_followed_but_not_in_a_circle(tree):
    (tree / "a" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "c").symlink_to(tree / "a", target_is_directory=True)
    (tree / "gone.png").symlink_to(tree / "nowhere")
    names = [str(path.relative_to(tree)) for path in image_list.collect([tree]).paths]
    assert names == ["a/bright0.png", "b/deep.png/dark0.png", "c/bright0.png", "gone.png", "plain0.png"]


@pytest.mark.parametrize("name", ["nothing.png", "n" * 300, "plain0.png/below"])
def test_what_is_not_there_is_named(tree, name):
    with pytest.raises(BadInputError, match=f"No image or folder at .*{name[-20:]}"):
        image_list.collect([tree, tree / name])


def test_a_folder_without_images_is_refused(tree):
    (tree / "empty").mkdir()
    with pytest.raises(BadInputError, match="empty has no images"):
        image_list.collect([tree, tree / "empty"])


def test_the_nearest_folder_with_a_class_name_counts(tmp_path):
    write_images(tmp_path / "dark" / "batch" / "bright" / "patient", 1, "x")
    write_images(tmp_path / "dark" / "batch", 1, "y")
    write_images(tmp_path, 1, "z")
    found = image_list.collect([tmp_path, tmp_path / "dark" / "batch" / "y0.png"])
    assert [None if folder is None else folder.name for folder in found.class_folders(CLASSES)] == [
        "bright",
        "dark",
        None,
        None,
    ]
    assert set(image_list.collect([tmp_path / "dark" / "batch"]).class_folders(["dark"])) == {None}, "above the named"
    assert [folder.name for folder in image_list.collect([tmp_path / "dark"]).class_folders(["dark"]) if folder] == [
        "dark",
        "dark",
    ]


def test_shares_are_counted_by_the_folder_of_the_class_folders(image_data):
    found = image_list.collect([image_data])
    labels = ["dark"] * len(found)
    shares = {share.folder.name: (share.right, share.images) for share in found.shares(CLASSES, labels)}
    assert shares == {"test": (4, 12), "train": (8, 24), "val": (4, 12)}
    assert found.shares(["other"], labels) == ()
