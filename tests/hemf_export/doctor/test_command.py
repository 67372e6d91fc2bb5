"""The doctor survives whatever an installation does at import, and names the fix."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pynvml
import pytest

from hemf_export import cli
from hemf_export.doctor import checkup, components, probe
from hemf_export.doctor.checkup import USES
from hemf_export.doctor.components import CUDA_12_BUILDS, PACKAGES, package
from hemf_export.doctor.probing import Finding, probe_all
from tests.hemf_export import nvml_library

# Stand-ins that import at once, so that the doctor can be run whole.
WORKING = {module: f"__version__ = {version!r}\n" for module, version in {
    "onnx": "1.22", "onnxsim": "v0.8.1", "numpy": "2.0", "onnx_ir": "1.0", "onnxscript": "0.7", "safetensors": "0.6",
    "PIL": "13.0", "sklearn": "1.6", "scipy": "1.12", "matplotlib": "3.10", "tensorrt_rtx": "1.7",
}.items()}  # fmt: skip
WORKING["torch"] = "__version__ = '2.13.0+cpu'\nclass version:\n    cuda = None\n"
WORKING["onnxruntime"] = "__version__ = '1.22'\ndef get_available_providers(): return ['CPUExecutionProvider']\n"
NO_LIBRARY = "raise ImportError('libnvinfer.so.10: cannot open shared object file: No such file or directory')"
SEGFAULT = "import ctypes\nctypes.string_at(0)"
PRINTS = "import os\nprint('{\"outcome\": \"missing\"}', flush=True)\nos.write(1, b'\\xff\\x00 garbage\\n')\n"
T4 = {"name": "Tesla T4", "compute_capability": [7, 5], "memory_bytes": 15_843_721_216}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Lay stub packages before the real ones, and hide a GPU; the folder that they lie in."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = tmp_path / "packages"

    def make(**sources: str) -> Path:
        for module, source in {**WORKING, "tensorrt": NO_LIBRARY, **sources}.items():
            (folder / module).mkdir(parents=True)
            (folder / module / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(folder)
        return folder

    return make


def findings(**changes: Finding) -> dict[str, Finding]:
    """Findings on a machine with all required packages and no GPU, but for `changes` (spaces as underscores)."""
    found = {name: Finding("ok", {"version": ""}) for name in PACKAGES}
    found |= {"tensorrt": Finding("missing", reason="not installed"), "driver": Finding("missing", {"pci": 0})}
    return {**found, **{name.replace("_", " "): finding for name, finding in changes.items()}}


def by_name(report: checkup.Report) -> dict[str, components.Component]:
    return {component.name: component for component in report.components}


def can(report: checkup.Report) -> set[str]:
    return {ability.command for ability in report.abilities if ability.can}


@pytest.mark.parametrize(
    ("source", "outcome", "reason"),
    [
        ("__version__ = '1.2'", "ok", ""),
        (NO_LIBRARY, "broken", "ImportError: libnvinfer.so.10: cannot open shared object file"),
        (SEGFAULT, "broken", "crashes at import (signal 11)"),
        ("import os\nos.abort()", "broken", "crashes at import (signal 6)"),
        ("import os\nos._exit(3)", "broken", "ends Python at import (exit 3)"),
        ("import os\nos._exit(0)", "broken", "ends Python at import (exit 0)"),
        ("raise SystemExit('no licence')", "broken", "SystemExit: no licence"),
        ("import nowhere_at_all", "broken", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise ImportError('first\\n\\nthe reason at last\\n')", "broken", "the reason at last"),
        (PRINTS + "__version__ = '3'", "ok", ""),
        (PRINTS + SEGFAULT, "broken", "crashes at import (signal 11)"),
        ("import atexit, os\natexit.register(os.abort)", "ok", ""),
    ],
)  # fmt: skip
def test_whatever_an_import_does_is_a_finding(tmp_path, monkeypatch, source, outcome, reason):
    (tmp_path / "stub.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = probe_all({"it": ("package", "stub")})["it"]
    assert found.outcome == outcome
    assert found.reason.startswith(reason)


def test_a_package_that_is_not_there_or_only_a_folder(tmp_path, monkeypatch):
    (tmp_path / "leftover").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    found = probe_all({"none": ("package", "nowhere_at_all"), "folder": ("package", "leftover")})
    assert found["none"] == Finding("missing", reason="not installed")
    assert found["folder"].outcome == "broken"
    assert str(tmp_path / "leftover") in found["folder"].reason


def test_an_import_that_hangs_is_killed(tmp_path, monkeypatch):
    pid = tmp_path / "pid"
    (tmp_path / "stub.py").write_text(
        f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = probe_all({"it": ("package", "stub")}, timeout_s=5)["it"]
    assert found == Finding("broken", reason="import hangs: no answer in 5 s")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_machine_with_no_gpu_and_a_broken_tensorrt_is_fit(run_cli, machine):
    machine()
    code, out, err = run_cli("doctor")
    assert code == 0, err
    assert re.search(r"^tensorrt +ImportError: libnvinfer.so.10: .* broken .* pip install --force-reinstall", out, re.M)
    assert re.search(r"^bench +can *$", out, re.M)
    assert re.search(r"^trt with tensorrt +cannot +GPU is missing; tensorrt is broken *$", out, re.M)
    assert max(map(len, out.splitlines())) <= 130


def test_without_torch_there_is_still_a_table_and_exit_4(run_cli, machine):
    machine(torch="raise ImportError('blocked')")
    code, out, err = run_cli("doctor")
    assert code == 4
    assert re.search(r"^torch +ImportError: blocked +broken +every command", out, re.M)
    assert re.search(r"^train +cannot +torch is broken", out, re.M)
    assert "Traceback" not in err
    named = "train, evaluate, explain, onnx, calibrate, finetune, bench, verify, predict, bundle, ship, "
    named += "self-test of bundles"
    assert f"error: Some commands can't work here ({named}): torch is broken." in err
    assert f"pip install --force-reinstall '{components.requirement('torch')}'" in err


def test_json_alone_on_stdout_when_everything_is_broken(machine):
    folder = machine(torch=PRINTS + SEGFAULT, onnx=PRINTS + "raise RuntimeError", tensorrt="import os; os._exit(3)")
    command = [sys.executable, "-m", "hemf_export", "doctor", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    report = json.loads(done.stdout)
    assert report["exit_code"] == 4
    assert not report["fit"]
    status = {component["name"]: component["status"] for component in report["components"]}
    assert [status[name] for name in ("torch", "onnx", "tensorrt", "onnxsim")] == ["broken", "broken", "broken", "ok"]
    assert "torch is broken" in report["error"]
    assert done.stderr.count("error:") == 1


def test_json_of_a_fit_machine(run_cli, machine):
    machine()
    code, out, _ = run_cli("doctor", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["fit"]
    assert "error" not in report


def test_ctrl_c_ends_the_children(machine, tmp_path):
    pid = tmp_path / "pid"
    folder = machine(torch=f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    command = [sys.executable, "-m", "hemf_export", "doctor"]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(folder)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as running:
        while not (pid.exists() and pid.read_text()):
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=240)
    assert running.returncode == 130, err
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_nothing_heavy_is_imported_here():
    script = (
        "import sys, hemf_export.doctor.checkup, hemf_export.cli.commands.doctor, hemf_export.doctor.probe\n"
        "sys.exit([name for name in ('torch', 'onnx', 'numpy', 'onnxruntime', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_a_t4_with_everything_can_do_everything():
    torch = Finding("ok", {"version": "2.13.0", "cuda_build": "12.8"})
    shown = Finding("ok", {"driver": "580.95", "cuda": "13.0", "pci": 1, "gpus": [T4]})
    tried = Finding("ok", {"gpu": "Tesla T4"})
    report = checkup.report(findings(torch=torch, driver=shown, CUDA_in_torch=tried, tensorrt=Finding("ok", {})))
    assert can(report) == {use.label for use in USES}
    components = by_name(report)
    assert components["GPU"].found == "Tesla T4, compute capability 7.5 (T4-class), 15.8 GB"
    assert components["driver"].found == "580.95, CUDA up to 13.0"
    assert not any(components[name].fix for name in ("torch", "tensorrt", "driver", "GPU", "CUDA in torch"))


def test_torch_says_why_it_has_no_gpu(machine):
    source = (
        "float16 = None\ndef zeros(*_, **__): raise RuntimeError('the driver is too old')\n"
        "class cuda:\n    def is_available(): return False\n"
    )
    machine(torch=source)
    found = probe_all({"it": ("torch-cuda",)})["it"]
    assert found == Finding("broken", reason="RuntimeError: the driver is too old")


NO_KERNEL = r"""CUDA error: no kernel image is available for execution on the device
Search for `cudaErrorNoKernelImageForDevice' in https://docs.nvidia.com/cuda for more information.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


def test_a_gpu_without_kernels_is_told_with_those_that_torch_has(machine):
    """The text is PyTorch's on a GPU that it has no kernels for (bytedance/Protenix#205): advice comes last."""
    source = (
        "class AcceleratorError(RuntimeError): pass\n"
        f"def ones(*_, **__): raise AcceleratorError({NO_KERNEL!r})\n"
        "float16 = None\n"
        "class cuda:\n    def is_available(): return True\n    def get_device_capability(): return (6, 1)\n"
        "    def get_arch_list(): return ['sm_75', 'sm_80', 'compute_120']\n"
    )
    machine(torch=source)
    found = probe_all({"it": ("torch-cuda",)})["it"]
    assert found.reason == (
        "RuntimeError: CUDA error: no kernel image is available for execution on the device: "
        "torch has kernels for sm_75, sm_80, compute_120, the GPU is sm_61"
    )


UPDATE = "Update the NVIDIA driver (CUDA 13 needs 580 or newer), or take torch for CUDA 12: pip"
OTHER_BUILD = "Update the NVIDIA driver, or install a build of torch that fits driver and GPU"


@pytest.mark.parametrize(
    ("build", "served", "capability", "fix"),
    [
        ("13.0", "12.8", [7, 5], UPDATE),
        ("13.0", "12.4", [8, 9], UPDATE),
        ("13.0", "13.0", [6, 1], "Take torch for CUDA 12, which has kernels for this GPU: pip"),
        ("13.0", "13.4", [7, 5], OTHER_BUILD),
        ("12.6", "12.8", [7, 5], OTHER_BUILD),
        ("13.0", "11.4", [7, 5], OTHER_BUILD),
    ],
)
def test_the_build_of_torch_that_fits_driver_and_gpu(build, served, capability, fix):
    """PyTorch's RELEASE.md: builds for CUDA 13 begin at 7.5, those for 12.6 at 5.0. NVIDIA: CUDA 13 needs R580."""
    found = findings(
        torch=Finding("ok", {"version": "2.13.0", "cuda_build": build}),
        driver=Finding("ok", {"cuda": served, "gpus": [{**T4, "compute_capability": capability}]}),
        CUDA_in_torch=Finding("broken", reason="no"),
    )
    component = by_name(checkup.report(found))["CUDA in torch"]
    assert component.fix.startswith(fix)
    command = f"pip install --force-reinstall '{components.requirement('torch')}' --index-url {CUDA_12_BUILDS}"
    assert component.fix.endswith(command) == fix.endswith("pip")


@pytest.mark.parametrize(
    ("changes", "name", "status", "fix"),
    [
        ({"driver": Finding("missing", {"pci": 1})}, "driver", "missing", "Install the NVIDIA driver"),
        ({"driver": Finding("missing", {"pci": 1})}, "GPU", "missing", "Mend the driver"),
        ({"driver": Finding("ok", {"error": "mismatch (CUDA error 803)"})}, "driver", "broken", "Restart the machine"),
        ({"driver": Finding("ok", {"error": "mismatch (CUDA error 803)"})}, "GPU", "missing", "Mend the driver"),
        ({"driver": Finding("ok", {"error": "compat (CUDA error 804)"})}, "driver", "broken", "Update the NVIDIA"),
        ({"driver": Finding("ok", {"error": "none (CUDA error 100)"})}, "GPU", "missing", "Unset CUDA_VISIBLE_DEVICES"),
        ({"driver": Finding("broken", reason="test hangs")}, "driver", "broken", "Restart the machine"),
        ({"driver": Finding("ok", {"gpus": [T4]})}, "CUDA in torch", "missing", "Install a build for CUDA"),
        ({"CUDA_in_torch": Finding("broken", reason="no kernel image")}, "CUDA in torch", "broken", "Update the"),
        ({"tensorrt": Finding("missing")}, "tensorrt", "missing", "On a host with a GPU: pip install tensorrt"),
        ({"onnx": Finding("missing")}, "onnx", "missing", "pip install 'onnx>="),
        ({"torch": Finding("ok", {"version": "2.4.1"})}, "torch", "warning", "pip install 'torch>=2.10,<2.14'"),
        ({"torch": Finding("ok", {"version": "2.14.0"})}, "torch", "warning", "pip install 'torch>=2.10,<2.14'"),
        ({"torch": Finding("ok", {"version": "2.10.0+cu128"})}, "torch", "ok", ""),
    ],
)  # fmt: skip
def test_each_fault_has_its_fix(monkeypatch, changes, name, status, fix):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    component = by_name(checkup.report(findings(**changes)))[name]
    assert component.status == status
    assert component.fix.startswith(fix)
    assert bool(component.fix) == (status != "ok")


@pytest.mark.parametrize(("version", "told"), [("10.16.1", False), ("11.4.0.32", True), ("", False)])
def test_a_tensorrt_that_onnx_runtime_does_not_load_is_told(version, told):
    """pip's newest; it builds and runs engines, so that it is in order."""
    component = by_name(checkup.report(findings(tensorrt=Finding("ok", {"version": version}))))["tensorrt"]
    assert component.status == "ok"
    assert ("bench's ort-tensorrt needs 10" in component.found) == told


def test_the_driver_version_is_nvmls_or_else_the_kernel_modules(monkeypatch, tmp_path):
    nvml = nvml_library.load(monkeypatch, tmp_path)

    def read(path: Path, **_: object) -> str:
        if str(path) != "/proc/driver/nvidia/version":
            raise FileNotFoundError(path)
        return "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Thu Jan 23 2025\nGCC version: 13.2.0\n"

    monkeypatch.setattr(probe.Path, "read_text", read)
    assert probe._driver_version() == "580.95.05"
    nvml.init_error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    assert probe._driver_version() == "570.86.10"
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert probe._driver_version() == "570.86.10"


def test_two_onnx_runtimes_are_one_too_many(monkeypatch):
    monkeypatch.setattr(components, "installed", lambda name: True)
    working = package("onnxruntime", Finding("ok", {"version": "1.22", "providers": ["CPUExecutionProvider"]}))
    broken = package("onnxruntime", Finding("broken", reason="AttributeError"))
    assert (working.status, broken.status) == ("warning", "broken")
    for component in (working, broken):
        assert component.fix.startswith("pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'onnxruntime")


def test_without_onnxsim_the_export_works_and_says_what_it_goes_without():
    report = checkup.report(findings(onnxsim=Finding("broken", reason="crashes at import (signal 11)")))
    assert report.fit
    export = next(ability for ability in report.abilities if ability.command == "onnx")
    assert export.can
    assert export.reason == "without onnxsim, graphs are not simplified"


def test_a_full_disk_and_a_removed_folder(tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))(10**12, 10**12 - 10**9, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    full = components.disk("disk, cache", tmp_path / "not" / "yet", "")
    assert (full.status, full.found) == ("warning", f"1.0 GB free: {tmp_path / 'not' / 'yet'}")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    here, _ = components.disks()
    assert here.status == "broken"


def test_the_doctor_knows_all_that_commands_need():
    assert {use.command for use in USES} <= set(cli.COMMANDS)
    lines = [line for line in metadata.requires("hemf-export") or [] if "extra ==" not in line]
    required = {re.split(r"[<>=;]", line)[0].lower() for line in lines} - {"click", "rich"}
    known = {distribution.lower() for _, distribution in PACKAGES.values()} | {"onnxruntime", "onnxruntime-gpu"}
    assert required <= known
    report = checkup.report(findings())
    assert all(component.needed_by for component in report.components if component.name in PACKAGES)


def test_a_missing_tritonclient_is_no_failure_and_names_its_extra(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ['tritonclient[grpc,http]>=2.67; extra == "triton"'])
    assert components.requirement("tritonclient") == "tritonclient>=2.67"
    found = checkup.report(findings(tritonclient=Finding("missing", reason="not installed")))
    assert found.fit
    assert by_name(found)["tritonclient"].fix == "pip install 'tritonclient[grpc,http]'"
    assert not {"triton", "triton-client"} & can(found)
    old = checkup.report(findings(tritonclient=Finding("ok", {"version": "2.50.0"})))
    assert by_name(old)["tritonclient"].found == "2.50.0; hemf-export is made for tritonclient>=2.67"
    assert {"triton", "triton-client"} <= can(old)
