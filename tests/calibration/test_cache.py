"""Recorded ranges on disk: what is kept is exactly what was recorded, and no damage to a file gets past it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.calibration import cache as module
from hemf_export.calibration import job
from hemf_export.calibration.cache import Cache, ranges
from hemf_export.calibration.graphs import prepare
from hemf_export.calibration.image_set import ImageSet
from hemf_export.calibration.ranges import Ranges, record
from hemf_export.images import folders
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput
from tests.conftest import RecordedTask, Recorder, write_images

SIZE = 48  # so that a value has more elements than are counted: 16 × 48 × 48 of an image


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("cache") / "images"
    for kind in ("bright", "dark", "striped"):
        write_images(folder / kind, 4, kind)
    return ImageSet(folders.class_folders(folder), ModelInput(Preprocess.for_size(SIZE)))


@pytest.fixture(scope="module")
def model() -> ir.Model:
    """A convolution and a layer norm, whose rows are looked at too."""
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["conv"], name="conv", pads=[1] * 4),
        helper.make_node("Transpose", ["conv"], ["rows"], name="rows", perm=[0, 2, 3, 1]),
        helper.make_node("LayerNormalization", ["rows", "scale"], ["norm"], name="norm"),
        helper.make_node("ReduceMean", ["norm", "axes"], ["mean"], name="mean", keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["y"], name="head"),
    ]
    weights = {
        "k": generator.standard_normal((16, 3, 3, 3)).astype("f4"), "scale": np.ones(16, "f4"),
        "axes": np.array([1, 2]), "w": generator.standard_normal((16, 3)).astype("f4"),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


@pytest.fixture(scope="module")
def exact(model, images) -> Ranges:
    """What one pass without any cache records."""
    return record(model, images.batches(module.RECORD_BATCH))


def same(found: Ranges, expected: Ranges) -> bool:
    assert list(found.histograms) == list(expected.histograms)
    return (found.images, found.rows) == (expected.images, expected.rows) and all(
        np.array_equal(mine.counts, own.counts) and (mine.low, mine.high) == (own.low, own.high)
        for mine, own in zip(found.histograms.values(), expected.histograms.values(), strict=True)
    )


def no_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments, **options):
        raise AssertionError("an inference was run")

    monkeypatch.setattr(module, "record", refuse)


def test_moved_functions_keep_the_keys_of_cached_results():
    """A CPU's key is none of when its weights had 8 bits: their logits were other ones."""
    assert {place.__name__: key for place, key in job._PLACEMENT_KEYS.items()} == {
        "quantize": "calibration.qdq",
        "quantize_for_cpu": "calibration.cpu_qdq of 7 bits",
    }


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("folder", [None, "made/on/demand"])
def test_ranges_are_those_that_are_recorded(tmp_path, model, images, exact, folder):
    cache = Cache(None if folder is None else tmp_path / folder)
    assert exact.rows
    assert max(each.total for each in exact.histograms.values()) < 12 * 16 * SIZE * SIZE, "a sample was counted"
    assert same(ranges(cache, model, "graph", images), exact)
    assert same(ranges(cache, model, "graph", images), exact)
    assert cache.notes == []
    assert len(list(tmp_path.rglob("*.npz"))) == (folder is not None)


def test_a_second_call_runs_no_inference(tmp_path, monkeypatch, model, images, exact):
    ranges(Cache(tmp_path), model, "graph", images)
    no_inference(monkeypatch)
    seen = Recorder()
    assert same(ranges(Cache(tmp_path), model, "graph", images, task=RecordedTask(seen)), exact)
    assert seen.moves == [(12,)]


@pytest.mark.parametrize("batches", [1, 2])
def test_an_interrupted_pass_goes_on_to_exactly_the_same(tmp_path, monkeypatch, model, images, exact, batches):
    monkeypatch.setattr(module, "_SAVE_EVERY_S", -1.0)

    class Interrupted(RecordedTask):
        def advance(self, count: float = 1) -> None:
            super().advance(count)
            if len(self.to.moves) == 2 + batches:  # the start, the batches that are saved, and one more
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ranges(Cache(tmp_path), model, "graph", images, task=Interrupted(Recorder()))
    cache, seen = Cache(tmp_path), Recorder()
    assert same(ranges(cache, model, "graph", images, task=RecordedTask(seen)), exact)
    size = module.RECORD_BATCH
    assert seen.moves == [(size * batches,)] + [(size,)] * (12 // size - batches)
    assert cache.notes == []


def flipped(data: bytes, place: int, bit: int = 3) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


DAMAGES = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "truncated": lambda data: data[: len(data) // 2],
    "last byte gone": lambda data: data[:-1],
    "random bytes": lambda data: np.random.default_rng(0).bytes(len(data)),
    "zeros": lambda data: bytes(len(data)),
    "another kind of file": lambda data: b"PK\x03\x04" + b"text" * 100,
    "one bit": lambda data: flipped(data, len(data) // 3),
    "first bit": lambda data: flipped(data, 0),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_told_and_made_again(tmp_path, model, images, exact, damage):
    ranges(Cache(tmp_path), model, "graph", images)
    path = only_file(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    cache = Cache(tmp_path)
    assert same(ranges(cache, model, "graph", images), exact)
    assert len(cache.notes) == 1
    assert "made again" in cache.notes[0]
    again = Cache(tmp_path)
    assert same(ranges(again, model, "graph", images), exact)
    assert again.notes == []


@pytest.mark.parametrize("missing", ["images", "counts", "names", "extremes", "rows"])
def test_a_whole_file_with_other_contents_is_told_and_made_again(tmp_path, model, images, exact, missing):
    ranges(Cache(tmp_path), model, "graph", images)
    path = only_file(tmp_path)
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files if name != missing}
    np.savez(path, **arrays)
    cache = Cache(tmp_path)
    assert same(ranges(cache, model, "graph", images), exact)
    assert "damaged" in cache.notes[0]


def test_no_flipped_bit_anywhere_changes_what_is_read(tmp_path, model, images, exact):
    ranges(Cache(tmp_path), model, "graph", images)
    path = only_file(tmp_path)
    data = path.read_bytes()
    places = np.random.default_rng(1).integers(0, len(data), 150)
    told = 0
    for place in [*places, *range(60), *range(len(data) - 120, len(data))]:
        path.write_bytes(flipped(data, int(place), int(place) % 8))
        cache = Cache(tmp_path)
        found = module._unpacked(cache, cache.read(path))
        assert (found is None) == bool(cache.notes)
        assert found is None or same(found, exact)
        told += found is None
    assert told > 100


def test_other_images_graphs_values_or_preprocessings_have_files_of_their_own(tmp_path, model, images):
    fewer = images.only(range(4))
    for graph, shown, values in (
        ("graph", fewer, None),
        ("another", fewer, None),
        ("graph", images.only(range(4, 8)), None),
        ("graph", fewer, ["conv"]),
        ("graph", ImageSet(fewer.images, ModelInput(Preprocess.for_size(SIZE, "squash"))), None),
        ("graph", fewer, None),
    ):
        found = ranges(Cache(tmp_path), model, graph, shown, values=values)
        assert found.images == 4
        assert values is None or list(found.histograms) == values
    assert len(list(tmp_path.iterdir())) == 5


def test_a_folder_that_takes_no_files_is_noted_and_no_error(tmp_path, model, images, exact):
    (tmp_path / "file").write_text("not a folder")
    cache = Cache(tmp_path / "file" / "cache")
    assert same(ranges(cache, model, "graph", images), exact)
    assert len(cache.notes) == 1
    assert cache.notes[0].startswith("Nothing is cached: Can't write into")


def test_a_folder_that_vanishes_is_noted_once_and_no_error(tmp_path, model, images, exact):
    cache = Cache(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    for _ in range(2):
        assert same(ranges(cache, model, "graph", images), exact)
    assert len(cache.notes) == 1
    assert cache.notes[0].startswith("Nothing more is cached")


def test_the_oldest_files_go_where_all_together_are_too_large(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    monkeypatch.setattr(module, "LIMIT_BYTES", 20_000)
    paths = [cache.path("logits", number=number) for number in range(6)]
    for age, path in enumerate(paths):
        cache.write(path, {"logits": np.zeros(1000, np.float32)})
        module.os.utime(path, (age, age))
    assert len(set(paths)) == 6
    assert [path.exists() for path in paths] == [False, False, True, True, True, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20_000


def test_nothing_of_a_file_is_unpickled(tmp_path):
    path = tmp_path / "ranges-x.npz"
    np.savez(path, images=np.array([{"an": "object"}], dtype=object))
    cache = Cache(tmp_path)
    assert cache.read(path) is None
    assert "ValueError" in cache.notes[0]
