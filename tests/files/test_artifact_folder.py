"""Folders of results: whole or not at all, and never in the place of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemf_export.files import artifact_folder
from hemf_export.files.errors import BadInputError

MARK = "result.json"


def write(path: Path, text: str, *, force: bool = False) -> None:
    with artifact_folder.whole(path, MARK, force=force) as place:
        (place / MARK).write_text(text)


def test_results_are_replaced_whole_and_only_by_force(tmp_path: Path):
    path = tmp_path / "results"
    with artifact_folder.whole(path, MARK, force=False) as place:
        (place / MARK).write_text("old")
        (place / "plot.png").write_text("old")
    with pytest.raises(BadInputError, match="holds earlier results") as caught:
        write(path, "new")
    assert "`force`" in str(caught.value)
    assert (path / MARK).read_text() == "old"
    write(path, "new", force=True)
    assert {entry.name: entry.read_text() for entry in path.iterdir()} == {MARK: "new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]
    assert path.stat().st_mode & 0o400


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, force: bool):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(BadInputError, match="is not empty, and has no"):
        write(tmp_path / "photos", "new", force=force)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInputError, match="is a file"):
        write(tmp_path / "file", "new", force=force)
    assert (tmp_path / "photos" / "a.jpg").read_text() == (tmp_path / "file").read_text() == "x"


def test_an_empty_folder_and_one_that_is_not_there_are_taken(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "deep" / "new"):
        write(path, "new")
        assert (path / MARK).read_text() == "new"


@pytest.mark.parametrize(
    ("error", "told"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), BadInputError)],
)
def test_what_fails_half_way_leaves_all_as_it_was(tmp_path: Path, error: BaseException, told: type[BaseException]):
    path = tmp_path / "results"
    write(path, "old")

    def fail() -> None:
        with artifact_folder.whole(path, MARK, force=True) as place:
            (place / MARK).write_text("half")
            raise error

    with pytest.raises(told):
        fail()
    assert (path / MARK).read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]


def test_a_rename_that_fails_brings_the_earlier_results_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "results"
    write(path, "old")
    replace = artifact_folder.os.replace

    def failing(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(artifact_folder.os, "replace", failing)
    with pytest.raises(BadInputError, match="No space left"):
        write(path, "new", force=True)
    assert (path / MARK).read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]
