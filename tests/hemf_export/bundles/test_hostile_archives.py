"""Archives that somebody made to reach what isn't theirs: nothing of them is unpacked, nothing else is touched."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard

from hemf_export.bundles import index
from tests.conftest import PROJECT
from tests.hemf_export.bundles.packing import Entry, entries, entry, pack, reindexed, seal, stream, whole
from tests.hostile.conftest import contents


@pytest.fixture
def attack(refused, tmp_path: Path):
    """Self-test an archive of these entries; the message of the refusal."""

    def run(parts: list[Entry], **options: bytes) -> str:
        place = tmp_path / "place"
        place.mkdir()
        path = pack(place / "bad.tar.zst", parts, **options)
        message = refused("self-test", path, "--keep", place / "kept")
        assert contents(tmp_path).keys() == {"place", "place/bad.tar.zst"}
        return message

    return run


EVIL = "/tmp/evil-of-a-bundle"
OUTSIDE = ["../evil", "a/../../evil", EVIL, "a//b", "./a", "C:evil", "a\\..\\evil", "a/.", "a ", "x\ny"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out(small, attack, name):
    """Unannounced, and announced in bundle.json."""
    assert "could lead out of the folder" in attack([*whole(entries(small)), entry(name, b"evil")])
    assert not Path(EVIL).exists()


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_and_is_announced(small, attack, name):
    assert "could lead out of the folder" in attack(whole(reindexed(entries(small), **{name: b"evil"})))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "is a symbolic link"),
        (tarfile.LNKTYPE, "is a hard link"),
        (tarfile.CHRTYPE, "is a device"),
        (tarfile.BLKTYPE, "is a device"),
        (tarfile.FIFOTYPE, "is a named pipe"),
        (tarfile.DIRTYPE, "is a folder"),
        (tarfile.CONTTYPE, "is no plain file"),
        (tarfile.AREGTYPE, "is no plain file"),
        (tarfile.GNUTYPE_SPARSE, "is no plain file"),
        (tarfile.GNUTYPE_LONGNAME, "is no plain file"),
        (tarfile.XHDTYPE, "is no plain file"),
        (tarfile.XGLTYPE, "is no plain file"),
    ],
)
def test_anything_but_a_plain_file(small, attack, kind, said):
    found = reindexed(entries(small), **{"labels.txt": b"/etc/passwd"})
    parts = [
        entry(name, b"" if name == "labels.txt" else data, kind=kind if name == "labels.txt" else tarfile.REGTYPE,
              link="/etc/passwd" if name == "labels.txt" else "")
        for name, data in found.items()
    ]  # fmt: skip
    message = attack(parts)
    assert said in message or "could lead" in message


def test_a_link_and_then_a_file_through_it(small, attack):
    found = entries(small)
    assert "symbolic link" in attack(
        [*whole(found), entry("x", kind=tarfile.SYMTYPE, link="/tmp"), entry("x/evil", b"evil")]
    )


def test_a_file_that_is_there_twice(small, attack):
    found = entries(small)
    assert "there twice" in attack([*whole(found), entry("labels.txt", b"other")])


def test_the_index_twice(small, attack):
    found = entries(small)
    assert "there twice" in attack([*whole(found), entry(index.NAME, found[index.NAME])])


def test_a_file_that_nobody_announced(small, attack):
    assert f"is not in its {index.NAME}" in attack([*whole(entries(small)), entry("more.txt", b"more")])


def test_a_file_that_is_missing(small, attack):
    found = entries(small)
    del found["labels.txt"]
    assert "labels.txt" in attack(whole(found))


def test_names_that_are_one_place_where_capitals_are_none(small, attack):
    assert "are one place" in attack(whole(reindexed(entries(small), **{"LABELS.txt": b"x"})))


def test_a_file_below_a_file(small, attack):
    assert "lies below a file" in attack(whole(reindexed(entries(small), **{"labels.txt/x": b"x"})))


def test_a_size_that_is_not_the_announced_one(small, attack):
    found = entries(small)
    assert "bytes; its bundle.json says" in attack(whole({**found, "labels.txt": found["labels.txt"] * 2}))


@pytest.mark.parametrize("mode", [0o4755, 0o777])
def test_a_mode_of_its_own(small, attack, mode):
    parts = whole(entries(small))
    info = tarfile.TarInfo.frombuf(parts[-1][0], "utf-8", "strict")
    info.mode = mode
    parts[-1] = info.tobuf(tarfile.USTAR_FORMAT), parts[-1][1]
    assert "not as hemf-export writes it" in attack(parts)


def test_something_behind_its_end(small, attack):
    assert "data after its end" in attack(whole(entries(small)), end=bytes(1024) + b"x" * 512)


def test_no_end(small, attack):
    assert "ends too early" in attack(whole(entries(small)), end=b"")


def test_no_index_first(small, attack):
    found = entries(small)
    first = found.pop(index.NAME)
    assert "doesn't begin with" in attack(whole({**found, index.NAME: first}))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"bundle": 1}', b'{"bundle": 2}', b"[" * 100_000, b"\xff", b"1"])
def test_an_index_that_is_none(small, attack, data):
    assert index.NAME in attack(whole({**entries(small), index.NAME: data}))


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../labels.txt"}, {"file": "/etc/passwd"}, {"file": 1}, {"kind": "script"}, {"sha256": "0" * 64},
        {"precision": None}, {"file": "none.onnx"},
    ],
)  # fmt: skip
def test_a_model_that_is_not_one_of_its_files(small, attack, change):
    """What self-test would run: the index agrees with itself, and leads elsewhere."""
    found = entries(small)
    about = json.loads(found[index.NAME])
    about["models"][0] |= change
    assert "lists a model that isn't in it" in attack(
        whole(reindexed({**found, index.NAME: json.dumps(about).encode()}))
    )


@pytest.mark.parametrize("models", [None, [], {}, "x", [1]])
def test_no_models_at_all(small, attack, models):
    found = entries(small)
    about = json.loads(found[index.NAME]) | {"models": models}
    assert index.NAME in attack(whole(reindexed({**found, index.NAME: json.dumps(about).encode()})))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"timings": 1}', b'{"timings": []}', b'{"timings": [{}]}', b"nan"])
def test_a_benchmark_that_is_none(small, tmp_path, run_cli, data):
    path = pack(tmp_path / "bad.tar.zst", whole(reindexed(entries(small), **{"timings/bench.json": data})))
    code, _, err = run_cli("self-test", path)
    assert code == (0 if data == b'{"timings": []}' else 1), err


def test_another_version_of_the_format_is_told(small, attack):
    found = entries(small)
    newer = found[index.NAME].replace(b'"bundle": 1', b'"bundle": 9')
    assert "has the format 9" in attack(whole({**found, index.NAME: newer}))


def test_damaged_headers(small, refused, tmp_path):
    plain = stream(whole(entries(small)))
    for place in (0, 100, 124, 148, 156, 257, 345, 500):
        data = bytearray(plain)
        data[place] ^= 0x55
        path = tmp_path / "bad.tar.zst"
        path.write_bytes(seal(zstandard.ZstdCompressor(level=1).compress(bytes(data))))
        refused("self-test", path, "--keep", tmp_path / "kept")


def test_no_zstd_behind_a_right_seal(refused, tmp_path):
    for number, data in enumerate((b"", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd" + b"\xff" * 99, bytes(99))):
        path = tmp_path / f"{number}.tar.zst"
        path.write_bytes(seal(data))
        refused("self-test", path)


SCRIPT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
from hemf_export.bundles import archive
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    archive.unpack(Path(sys.argv[1]), Path(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def peak_kb(path: Path, folder: Path) -> tuple[int, str]:
    """Memory that unpacking takes beyond what was there before, in a process of its own; what it said."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path, folder], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    return int(done.stdout), done.stderr


def bomb(path: Path, name: bytes, size: int, found: dict[str, bytes], written: int) -> Path:
    """An archive whose last file claims `size` bytes of zeros, `written` of which are there."""
    with open(path, "wb") as file:
        compressor = zstandard.ZstdCompressor(level=1)
        with compressor.stream_writer(file, closefd=False) as writer:
            writer.write(stream(whole(found), end=b""))
            writer.write(entry(name.decode(), b"", size=size)[0])
            for _ in range(written >> 20):
                writer.write(bytes(1 << 20))
    path.write_bytes(seal(path.read_bytes()))
    return path


def test_a_bomb_takes_neither_memory_nor_disk(small, tmp_path):
    found = entries(small)
    index_bomb = bomb(tmp_path / "index.tar.zst", index.NAME.encode(), 1 << 30, {}, 1 << 30)
    assert index_bomb.stat().st_size < 200_000
    kb, said = peak_kb(index_bomb, tmp_path / "a")
    assert "doesn't begin with" in said
    assert kb < 200_000
    file_bomb = bomb(tmp_path / "file.tar.zst", b"zeros", 1 << 30, found, 1 << 30)
    kb, said = peak_kb(file_bomb, tmp_path / "b")
    assert "is not in its" in said
    assert kb < 200_000
    assert not (tmp_path / "b" / "zeros").exists()


def test_one_that_is_larger_than_the_disk_is_told_before_it_is_unpacked(small, attack, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert "free for it" in attack(whole(entries(small)))


def test_a_window_that_takes_all_memory_is_refused(small, tmp_path, refused):
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, write_content_size=0)
    path = tmp_path / "wide.tar.zst"
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(seal(compressor.compress(stream(whole(entries(small)))) + compressor.flush()))
    assert "can't be decompressed" in refused("self-test", path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
