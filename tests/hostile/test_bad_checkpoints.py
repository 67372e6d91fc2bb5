"""Checkpoints that came from a stranger, a broken disk or a hurried copy.

Someone is sent a `best.pt` that is in truth a pickle with a command in it; a download stopped at half; a bit flipped;
the file of another network was put under the right name. Each is refused with one message that names it, and none of
its code is run. What is odd and harmless, prefixes of wrappers, is accepted.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import BadInputError
from tests.conftest import CLASSES, TINY, tiny_checkpoint
from tests.hostile.conftest import SMALL

SUFFIXES = (".pt", ".safetensors")


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def write_payload(path: Path, marker: Path, form: str) -> None:
    content = {"model": {"head.weight": torch.zeros(2), "head.bias": Payload(marker)}}
    if form == "zip":
        torch.save(content, path)
    elif form == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps({"head.bias": Payload(marker)}, protocol=int(form)))


def test_the_payload_of_these_tests_would_run(tmp_path: Path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").is_dir()


@pytest.mark.parametrize("forced", [False, True], ids=["", "with-torch-told-to-load-unsafely"])
@pytest.mark.parametrize("form", ["zip", "legacy", "0", "2", "4"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, refused, monkeypatch, form, forced):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    write_payload(path, marker, form)
    message = refused("info", path, names=path)
    assert "could run code" in message or form == "0"  # torch reads no opcodes of the oldest protocol
    assert not marker.exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "0", "2", "4"])
def test_a_pickle_named_safetensors_is_refused_and_not_run(tmp_path: Path, refused, form):
    path, marker = tmp_path / "evil.safetensors", tmp_path / "marker"
    write_payload(path, marker, form)
    message = refused("info", path, names=path)
    assert "holds a pickle" in message or form == "0"
    assert not marker.exists()


def test_a_whole_network_is_refused_with_the_way_to_save_its_weights(tmp_path: Path, refused):
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2), path)
    assert "torch.save(model.state_dict(), path)" in refused("info", path, names=path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", ["1 %", "50 %", "one byte short"])
def test_a_cut_file_is_refused(tmp_path: Path, refused, whole, suffix, share):
    data = whole[suffix]
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: {"1 %": len(data) // 100, "50 %": len(data) // 2, "one byte short": -1}[share]])
    assert "copy or make it again" in refused("info", path, names=path)


@pytest.mark.parametrize("content", [b"P", b"\x80", b"hello world", b"\x00" * 300, b"PK\x05\x06" + b"\x00" * 18])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_bytes_are_refused(tmp_path: Path, suffix, content):
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=path.name) as caught:
        checkpoint.load(path)
    assert "could run code" not in caught.value.message


def flipped(data: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["local_steps.0.norm.weight", "fusion_stages.2.output_norm.weight", "head.weight"])
def test_a_flipped_bit_of_a_weight_is_seen(tmp_path: Path, whole, suffix, name):
    data, weights = whole[suffix], tiny_checkpoint(config=SMALL).state[name].numpy().tobytes()
    start = data.index(weights)
    path = tmp_path / f"flipped{suffix}"
    for position, bit in ((0, 0), (len(weights) // 2, 4), (len(weights) - 1, 7)):
        path.write_bytes(flipped(data, start + position, bit))
        with pytest.raises(BadInputError, match=r"flipped.*digest disagrees"):
            checkpoint.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("text", ["bright", "image_size", "local_steps.0.norm.weight", "sha256", "preprocess", "crop"])
def test_a_flipped_bit_of_the_header_is_seen(tmp_path: Path, whole, suffix, text):
    data = whole[suffix]
    path = tmp_path / f"flipped{suffix}"
    for bit in (0, 5, 7):
        path.write_bytes(flipped(data, data.index(text.encode()) + 1, bit))
        with pytest.raises(BadInputError, match=path.name):
            checkpoint.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bit_flipped_anywhere_never_gives_another_checkpoint(tmp_path: Path, whole, suffix):
    """A zip archive has bytes without meaning, such as times; a flip of those may pass."""
    expected = tiny_checkpoint(config=SMALL)
    data, path, draw = whole[suffix], tmp_path / f"flipped{suffix}", random.Random(0)
    ends = [draw.randrange(40_000) for _ in range(20)] + [len(data) - 1 - draw.randrange(40_000) for _ in range(10)]
    seen = 0
    for position in ends:
        path.write_bytes(flipped(data, position, draw.randrange(8)))
        try:
            loaded = checkpoint.load(path)
        except BadInputError:
            seen += 1
            continue
        for part in ("config", "classes", "preprocess", "metrics", "provenance"):
            assert getattr(loaded, part) == getattr(expected, part)
        assert loaded.state.keys() == expected.state.keys()
        assert all(torch.equal(value, loaded.state[name]) for name, value in expected.state.items())
    assert seen == len(ends) if suffix == ".safetensors" else seen > len(ends) / 2


def test_a_flipped_bit_ends_an_export_before_it_starts(tmp_path: Path, refused, whole):
    path = tmp_path / "m.pt"
    path.write_bytes(flipped(whole[".pt"], len(whole[".pt"]) // 2, 3))
    assert "digest disagrees" in refused("onnx", path, "-o", tmp_path / "m.onnx", names=path)


def raw_safetensors(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def dense(state: dict[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    return [(name, value.contiguous()) for name, value in state.items()]


def entry(shape: list[int], begin: int, end: int, kind: str = "F32") -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(raw_safetensors({"a": entry([1], 0, 4)}, b"\0" * 4, length=10_000), id="header-beyond-the-end"),
        pytest.param(raw_safetensors({"a": entry([1], 0, 4)}, b"\0" * 4, length=2**63), id="header-of-2^63"),
        pytest.param(raw_safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12), id="overlap"),
        pytest.param(raw_safetensors({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, b"\0" * 8), id="same-place"),
        pytest.param(raw_safetensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"\0" * 12), id="hole"),
        pytest.param(raw_safetensors({"a": entry([3], 0, 8)}, b"\0" * 8), id="shape-against-offsets"),
        pytest.param(raw_safetensors({"a": entry([2**40, 2**40], 0, 8)}, b"\0" * 8), id="shape-of-2^80"),
        pytest.param(raw_safetensors({"a": entry([1], 4, 0)}, b"\0" * 4), id="end-before-begin"),
        pytest.param(raw_safetensors({"a": entry([1], 0, 4, "F31")}, b"\0" * 4), id="unknown-type"),
        pytest.param(raw_safetensors({"a": entry([1], 0, 4)}, b"\0" * 8), id="bytes-left-over"),
        pytest.param(raw_safetensors([1, 2]), id="header-a-list"),
        pytest.param(raw_safetensors({"__metadata__": {"hemf": "[1]"}}), id="our-header-a-list"),
        pytest.param(raw_safetensors({"__metadata__": {"hemf": "{"}}), id="our-header-no-json"),
        pytest.param(raw_safetensors({"__metadata__": {"hemf": "[" * 100_000}}), id="our-header-nested"),
        pytest.param(raw_safetensors({}), id="no-tensor"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, refused, data):
    path = tmp_path / "lying.safetensors"
    path.write_bytes(data)
    refused("info", path, names=path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value[:1], r"1 of another shape: head\.weight \(1, 128\), expected \(3, 128\)"),
        (lambda value: value.to(torch.int32), r"1 of another type: head\.weight \(int32\)"),
        (lambda value: value.to(torch.complex64), r"1 of another type: head\.weight \(complex64\)"),
        (lambda value: value.double(), r"1 of another type: head\.weight \(float64\)"),
    ],
)
def test_a_tensor_of_another_shape_or_type_is_named(altered, change, told):
    def alter(content: dict) -> None:
        content["model"]["head.weight"] = change(content["model"]["head.weight"])

    with pytest.raises(BadInputError, match=told):
        checkpoint.load(altered(alter))


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda value: value.to("meta")], ids=["sparse", "meta"])
def test_a_tensor_without_plain_data_is_named(tmp_path: Path, refused, change):
    path = tmp_path / "bare.pth"
    state = tiny_checkpoint(config=TINY).state
    torch.save({**state, "head.weight": change(state["head.weight"])}, path)
    assert "1 of another type: head.weight" in refused("info", path, names=path)


def test_integer_weights_in_a_safetensors_file_are_refused(tmp_path: Path, refused):
    path = tmp_path / "quantized.safetensors"
    path.write_bytes(
        to_safetensors({name: value.to(torch.int8) for name, value in dense(tiny_checkpoint(config=TINY).state)})
    )
    assert "of another type" in refused("info", path, names=path)


@pytest.mark.parametrize("layout", ["ours", "bare", "safetensors"])
def test_missing_and_unexpected_keys_are_counted_and_the_first_five_named(tmp_path: Path, refused, altered, layout):
    state = tiny_checkpoint(config=SMALL if layout == "ours" else TINY).state
    lost = list(state)[20:27]
    extra = [f"extra.{index}" for index in range(6)]
    changed = {name: value for name, value in state.items() if name not in lost}
    changed |= {name: torch.zeros(1) for name in extra}
    path = tmp_path / f"m.{'safetensors' if layout == 'safetensors' else 'pth'}"
    if layout == "ours":
        path = altered(lambda content: content.update(model=changed))
    elif layout == "bare":
        torch.save(changed, path)
    else:
        path.write_bytes(to_safetensors(dict(dense(changed))))
    message = refused("info", path, names=path)
    assert f"7 missing: {', '.join(lost[:5])}, …" in message
    assert f"6 unexpected: {', '.join(extra[:5])}, …" in message
    assert lost[5] not in message
    assert extra[5] not in message


def test_class_names_and_outputs_that_disagree_are_counted(refused, altered):
    path = altered(lambda content: content.update(classes=["bright", "dark"]))
    message = refused("info", path, names=path)
    assert "2 class names for 3 outputs" in message


@pytest.mark.parametrize("source", ["--classes", "class_indices.json"])
def test_class_names_given_for_a_bare_file_must_be_as_many_as_its_outputs(tmp_path: Path, refused, source):
    path = tmp_path / "best_model.pth"
    torch.save(tiny_checkpoint(config=TINY).state, path)
    arguments = ["info", path]
    if source == "--classes":
        arguments += ["--classes", "bright,dark,striped,plain"]
    else:
        (tmp_path / source).write_text(json.dumps({"0": "a", "1": "b", "2": "c", "3": "d"}))
    assert "4 class names for 3 outputs" in refused(*arguments, names=path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.update(classes="abc"), "'classes' is a str"),
        (lambda content: content.update(classes=[1, 2, 3]), "class names must be text"),
        (lambda content: content.update(classes=["a", "a", "b"]), "must differ"),
        (lambda content: content.update(metrics=None), "'metrics' is a NoneType"),
        (lambda content: content.update(training=3), "'training' is a int"),
        (lambda content: content.update(config=[]), "'config' is a list"),
        (lambda content: content.update(version=2), "format version 2"),
        (lambda content: content["config"].update(num_classes="3"), "num_classes must be a positive integer"),
        (lambda content: content["config"].update(widht=3), "'width'"),
        (lambda content: content["config"].update(elf_depth=10**9), "elf_depth must be at most 32"),
        (lambda content: content["config"].update(name=3), "must be text, not 3"),
        (lambda content: content["config"].update(image_size=96), "pixels, the network takes 96"),
        (lambda content: content["preprocess"].update(size="32"), "not a whole checkpoint"),
        (lambda content: content.pop("preprocess"), "not a whole checkpoint: KeyError 'preprocess'"),
        (lambda content: content.update(model={"head.weight": 3}), "not a whole checkpoint"),
        (lambda content: content.update(model={3: torch.zeros(2)}), "not a whole checkpoint"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(altered, change, told):
    path = altered(change)
    with pytest.raises(BadInputError, match=told) as caught:
        checkpoint.load(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("prefix", "place"),
    [("module.", "bare"), ("_orig_mod.", "net"), ("module._orig_mod.", "net"), ("_orig_mod.module.", "bare")],
)
def test_prefixes_of_wrappers_are_accepted(tmp_path: Path, prefix, place):
    saved = tiny_checkpoint(config=TINY)
    state = {prefix + name: value for name, value in saved.state.items()}
    path = tmp_path / "wrapped.pth"
    torch.save({"net": state, "epoch": 3} if place == "net" else state, path)
    loaded = checkpoint.load(path, classes=CLASSES)
    assert loaded.state.keys() == saved.state.keys()
    assert all(torch.equal(value, loaded.state[name]) for name, value in saved.state.items())


def test_a_tensor_with_and_without_a_prefix_is_refused(tmp_path: Path, refused):
    """Which of the two was meant can't be known."""
    path = tmp_path / "both.pth"
    state = tiny_checkpoint(config=TINY).state
    torch.save({**state, "module.head.bias": state["head.bias"] + 1}, path)
    assert "1 tensors are there twice, with a prefix and without: head.bias" in refused("info", path, names=path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_end_an_export_before_it_starts(tmp_path: Path, refused, monkeypatch, value):
    from hemf_export.export import onnx_export

    def forbidden(*arguments: object) -> None:
        raise AssertionError("the graph was exported")

    monkeypatch.setattr(onnx_export, "export_graph", forbidden)
    saved = tiny_checkpoint(config=TINY)
    for name in ("local_steps.0.norm.weight", "head.bias"):
        saved.state[name][0] = value
    path = tmp_path / "diverged.pt"
    checkpoint.save(saved, path)
    message = refused("onnx", path, "-o", tmp_path / "m.onnx", names="2 tensors")
    assert "local_steps.0.norm.weight, head.bias" in message


def test_a_torchscript_program_is_refused_by_its_type(tmp_path: Path, refused):
    path = tmp_path / "traced.pt"
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    assert "TorchScript program" in refused("info", path, names=path)


@pytest.mark.parametrize("name", ["exported.pt2", "exported.pt"])
def test_an_exported_program_is_refused_by_its_type(tmp_path: Path, refused, name):
    path = tmp_path / name
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path.with_suffix(".pt2"))
    path.with_suffix(".pt2").replace(path)
    assert "exported program (.pt2)" in refused("info", path, names=path)


def by_link(path: Path) -> Path:
    link = path.with_name("link.onnx")
    link.symlink_to(path)
    return link


def by_hard_link(path: Path) -> Path:
    link = path.with_name("hard.onnx")
    link.hardlink_to(path)
    return link


@pytest.mark.parametrize("output", [lambda path: path, by_link, by_hard_link], ids=["same", "link", "hard-link"])
def test_an_output_that_is_the_input_is_refused(checkpoint_file: Path, refused, output: Callable[[Path], Path]):
    target = output(checkpoint_file)
    assert "is the input itself" in refused("onnx", checkpoint_file, "-o", target, names=target)
