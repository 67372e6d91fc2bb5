"""Devices and precisions: what is asked for is there, or is exit 4. Freed memory is kept: page faults tell."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import platform
import subprocess
import sys

import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import MissingCapabilityError
from hemf_export.train import hardware
from hemf_export.train.hardware import Hardware, choose
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import Trainer
from tests.train.runs import Quiet, job


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_defaults_are_float16_on_cuda_and_float32_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto") == choose("cpu") == Hardware("cpu", "off")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose("auto") == choose("cuda") == Hardware("cuda", "float16")
    assert choose("auto", "off").amp == "off"


@pytest.mark.parametrize(
    ("device", "amp", "message"),
    [("cuda", None, "No CUDA GPU"), ("auto", "float16", r"float16 training needs a CUDA GPU.*`device='cpu'`")],
)
def test_what_a_machine_without_a_gpu_lacks(no_gpu, device, amp, message):
    with pytest.raises(MissingCapabilityError, match=message):
        choose(device, amp)


def test_float16_on_a_cpu_is_had_by_asking_for_both(no_gpu):
    chosen = choose("cpu", "float16")
    assert chosen == Hardware("cpu", "float16")
    assert "slow on a CPU" in chosen.caveats[0]
    assert not any(other.caveats for other in (Hardware(), Hardware("cuda", "float16"), Hardware("cpu", "bfloat16")))


def test_bfloat16_needs_hardware_for_it(monkeypatch, no_gpu):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with pytest.raises(MissingCapabilityError, match="no bfloat16 arithmetic"):
        choose("cpu", "bfloat16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose("cpu", "bfloat16").amp == "bfloat16"
    # A T4: torch would emulate it.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(MissingCapabilityError, match="Tesla T4 has no bfloat16") as raised:
        choose("cuda", "bfloat16")
    assert raised.value.exit_code == 4


COMPILERS = [
    ("cpu", {}, ["g++"], None),
    ("cpu", {}, ["gcc", "clang"], r"a C\+\+ compiler \(g\+\+; CXX names another\)"),
    ("cpu", {"CXX": "icpx"}, ["g++"], r"a C\+\+ compiler \(icpx;"),
    ("cpu", {"CXX": "icpx"}, ["icpx"], None),
    ("cuda", {}, ["clang"], None),
    ("cuda", {}, ["g++", "cc"], r"a C compiler \(gcc or clang; CC names another\)"),
    ("cuda", {"CC": "tcc"}, ["gcc"], r"a C compiler \(tcc;"),
    ("cuda", {"CC": "tcc"}, ["tcc"], None),
]


@pytest.mark.parametrize(("device", "variables", "found", "lacking"), COMPILERS)
def test_compiling_needs_a_compiler(monkeypatch, device, variables, found, lacking):
    """The one that torch.compile's code generators would call: torch/_inductor/config.py, triton/runtime/build.py."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: f"/usr/bin/{name}" if name in found else None)
    monkeypatch.setattr(hardware, "find_spec", lambda _: object())  # the package triton
    if lacking is None:
        assert choose(device, compile=True).compile
    else:
        with pytest.raises(MissingCapabilityError, match=lacking):
            choose(device, compile=True)


def test_compiling_needs_triton_on_a_gpu_and_pythons_headers_everywhere(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "find_spec", lambda _: None)
    with pytest.raises(MissingCapabilityError, match="the package triton"):
        choose("cuda", compile=True)
    monkeypatch.setattr(hardware, "find_spec", lambda _: object())
    monkeypatch.setattr(hardware.shutil, "which", lambda name: name)
    monkeypatch.setattr(hardware.sysconfig, "get_path", lambda *_: str(tmp_path))
    for device in ("cpu", "cuda"):
        with pytest.raises(MissingCapabilityError, match=rf"Python's headers in {tmp_path}"):
            choose(device, compile=True)


@pytest.mark.skipif(not hardware.has_bfloat16("cpu"), reason="this CPU has no bfloat16")
def test_training_in_bfloat16_learns_and_keeps_float32_weights(image_data, tmp_path):
    listener, run = Quiet(), RunFolder(tmp_path / "run", resume=False)
    in_bfloat16 = dataclasses.replace(job(image_data, epochs=4), hardware=Hardware("cpu", "bfloat16"))
    Trainer(in_bfloat16, run, resume=False).fit(listener)
    assert listener.lines[-1]["loss"] < 0.8 * listener.lines[0]["loss"]
    saved = checkpoint.load(run.last)
    assert {value.dtype for value in saved.state.values()} == {torch.float32}
    exact = Quiet()
    Trainer(job(image_data, epochs=4), RunFolder(tmp_path / "exact", resume=False), resume=False).fit(exact)
    first = listener.lines[0]["loss"], exact.lines[0]["loss"]
    assert first[0] != first[1], "products were rounded to bfloat16"
    assert first[0] == pytest.approx(first[1], rel=0.1)


def test_the_compiled_network_is_the_same_and_its_checkpoints_have_the_plain_names(image_data, tmp_path, monkeypatch):
    """With dynamo's eager backend: whether a compiler is right is not ours to test, whether we use it is."""
    calls = []

    def compiled(network, **options):
        calls.append(network)
        return torch._dynamo.optimize("eager")(network)

    monkeypatch.setattr(torch, "compile", functools.wraps(torch.compile)(compiled))
    folders = {}
    for name, hardware_ in (("plain", Hardware()), ("compiled", Hardware(compile=True))):
        run = RunFolder(tmp_path / name, resume=False)
        Trainer(dataclasses.replace(job(image_data, epochs=1), hardware=hardware_), run, resume=False).fit(Quiet())
        folders[name] = checkpoint.load(run.last)
    assert len(calls) == 1
    assert folders["compiled"].state.keys() == folders["plain"].state.keys()
    for name, value in folders["plain"].state.items():
        assert torch.allclose(folders["compiled"].state[name], value, atol=1e-4), name


def test_channels_last_is_a_matter_of_rounding(image_data, tmp_path):
    losses = []
    for channels_last in (True, False):
        listener = Quiet()
        chosen = dataclasses.replace(job(image_data, epochs=1), hardware=Hardware(channels_last=channels_last))
        trainer = Trainer(chosen, RunFolder(tmp_path / str(channels_last), resume=False), resume=False)
        dense = next(each for each in trainer.model.modules() if isinstance(each, torch.nn.Conv2d) and each.groups == 1)
        assert dense.weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        trainer.fit(listener)
        losses.append(listener.lines[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["float16", "bfloat16", "off"])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_on_a_gpu_lowers_the_loss(image_data, tmp_path, amp, compiled):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    if amp == "bfloat16" and not hardware.has_bfloat16("cuda"):
        pytest.skip("this GPU has no bfloat16")
    listener, run = Quiet(), RunFolder(tmp_path / "run", resume=False)
    on_gpu = dataclasses.replace(job(image_data), hardware=choose("cuda", amp, compile=compiled), workers=2)
    trainer = Trainer(on_gpu, run, resume=False)
    assert trainer.state.scaler.is_enabled() == (amp == "float16")
    trainer.fit(listener)
    assert listener.lines[-1]["loss"] < listener.lines[0]["loss"]
    assert listener.lines[-1]["gpu_memory_bytes"] > 0
    assert bool(checkpoint.load(run.last).training["scaler"]) == (amp == "float16")


@pytest.mark.gpu
@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_another_device(image_data, tmp_path, first, then):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")

    class Stopping(Quiet):
        def epoch(self, line: dict[str, object]) -> None:
            raise KeyboardInterrupt

    whole = job(image_data, epochs=3, ema_decay=0.5)
    begun = dataclasses.replace(whole, hardware=choose(first))
    with pytest.raises(KeyboardInterrupt):
        Trainer(begun, RunFolder(tmp_path / "run", resume=False), resume=False).fit(Stopping())
    gone_on = dataclasses.replace(whole, hardware=choose(then, channels_last=False))
    run, listener = RunFolder(tmp_path / "run", resume=True), Quiet()
    Trainer(gone_on, run, resume=True).fit(listener)
    assert [line["epoch"] for line in listener.lines] == [2, 3]
    assert listener.lines[-1]["loss"] < run.read_metrics()[0]["loss"]


FAULTS = """
import resource, torch
from hemf_export.train import hardware
torch.set_num_threads(1)
def faults():
    torch.ones(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def five_more():
    for _ in range(20):
        settled = faults()
    for _ in range(5):
        last = faults()
    return last - settled
print(five_more())
assert hardware.keep_freed_memory()
print(five_more())
"""
TENSOR_BYTES, LARGEST_PAGE = 4 * (12 << 20), 2 << 20

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")


@pytest.mark.extended
@glibc
def test_a_tensor_made_again_takes_the_memory_of_the_one_before():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    left, kept = (int(number) for number in done.stdout.split())
    assert left >= 5 * TENSOR_BYTES // LARGEST_PAGE, "else there is nothing to keep"
    assert kept < left / 5


def test_without_glibc_nothing_is_set(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert hardware.keep_freed_memory() is False
