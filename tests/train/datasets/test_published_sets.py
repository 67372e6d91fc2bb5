"""ZIP files from elsewhere: images come out below the folder, and nothing else comes out anywhere."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from hemf_export.files.errors import BadInputError
from hemf_export.train.datasets import published_sets


def make(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def unpack(folder: Path, archive: Path) -> list[str]:
    target = folder / "unpacked"
    target.mkdir()
    published_sets.unpack(archive, target)
    return sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())


def test_images_and_lists_come_out_and_nothing_else(tmp_path: Path):
    members = {
        "set/a/1.PNG": b"1", "set/b/ü 2.jpg": b"22", "set/truth.csv": b"x", "set/run.sh": b"rm", "set/.DS_Store": b"",
        "__MACOSX/set/._1.png": b"", "set/.hidden/1.png": b"",
    }  # fmt: skip
    assert unpack(tmp_path, make(tmp_path / "set.zip", members)) == ["set/a/1.PNG", "set/b/ü 2.jpg", "set/truth.csv"]
    assert (tmp_path / "unpacked" / "set" / "b" / "ü 2.jpg").read_bytes() == b"22"


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:/evil.png"])
def test_a_member_that_leads_out_unpacks_nothing(tmp_path: Path, name):
    archive = make(tmp_path / "set.zip", {"set/good.png": b"1", name: b"2"})
    with pytest.raises(BadInputError, match=r"set\.zip has a member that leads out of its folder"):
        unpack(tmp_path, archive)
    assert not any((tmp_path / "unpacked").iterdir())
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_unpacks_nothing(tmp_path: Path):
    link = zipfile.ZipInfo("set/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("set/good.png", b"1")
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadInputError, match="has a link in it"):
        unpack(tmp_path, tmp_path / "set.zip")
    assert not any((tmp_path / "unpacked").iterdir())


@pytest.mark.parametrize("harm", ["empty", "text", "cut", "flipped", "encrypted"])
def test_a_damaged_archive_is_refused_by_name(tmp_path: Path, harm):
    path = make(tmp_path / "set.zip", {"set/a.png": bytes(range(256)) * 40})
    data = bytearray(path.read_bytes())
    if harm == "flipped":
        data[60] ^= 0xFF
    elif harm == "encrypted":
        for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
            place = data.index(signature) + offset
            struct.pack_into("<H", data, place, struct.unpack_from("<H", data, place)[0] | 1)
    path.write_bytes({"empty": b"", "text": b"Not found", "cut": bytes(data[:-30])}.get(harm, bytes(data)))
    with pytest.raises(BadInputError, match=r"set\.zip can't be unpacked: .*Download it again"):
        unpack(tmp_path, path)


def test_an_archive_larger_than_the_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch):
    path = make(tmp_path / "set.zip", {"set/a.png": b"1", "set/b.png": b"2"})
    monkeypatch.setattr(published_sets.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(BadInputError, match="has no room for it"):
        unpack(tmp_path, path)
    assert not any((tmp_path / "unpacked").iterdir())
