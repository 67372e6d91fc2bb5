"""May this engine run here? Asked before a plan is deserialized, which is to run native code out of a file.

Integrity first (a manifest, its hash, the plan's own header), then what the machine has: TensorRT of that flavour and
version, a driver for its CUDA, a GPU of that compute capability. TensorRT has no such check: a plan that doesn't fit
crashes it, or gives None.

The first bytes of a plan tell its flavour and the version that serialized it. Their layout is the one that trtexec's
`--getPlanVersionOnly` reads: a tag, a serialization version of 0, and the four numbers of the version at byte 24.
TensorRT-RTX has another tag (seen in plans of 1.7).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hemf_export.engines.backends import BackendName
from hemf_export.engines.machine import Machine
from hemf_export.engines.options import BuildOptions
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, HemfError, MissingCapabilityError

Outcome = Literal["fine", "refused", "not checked"]
_TAGS: dict[bytes, BackendName] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_HEADER_BYTES, _LARGEST_BYTE = 28, 255


@dataclass(frozen=True)
class PlanHeader:
    """The start of a plan.

    Args:
        backend: the TensorRT flavour that serialized it.
        version: its version, `10.16.1.11`, each number in one byte; None where a newer layout hides it.
    """

    backend: BackendName
    version: str | None

    def agrees(self, version: str) -> bool:
        """Whether the plan may be of this version: a number that no byte holds can't be compared."""
        own, full = _numbers(self.version or ""), _numbers(version)
        return len(own) == len(full) and all(a == b or b > _LARGEST_BYTE for a, b in zip(own, full, strict=True))


def flavour(start: bytes) -> BackendName | None:
    """The backend whose plans begin like this; None for what is no plan."""
    return _TAGS.get(start[:4])


def read_header(path: Path) -> PlanHeader:
    """Read the header of a plan.

    Raises:
        BadInputError: no such file, or not the start of a plan.
    """
    if not path.is_file():
        raise BadInputError(f"No engine at {path}.", "Build one: `build_engine(MODEL.onnx, precision='fp16')`.")
    try:
        with open(path, "rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    backend = flavour(start)
    if len(start) < _HEADER_BYTES or backend is None:
        what = "it is empty" if not start else "it does not begin as one"
        raise BadInputError(f"{path} is not a TensorRT plan: {what}.", "Build it again: `build_engine()`.")
    layout = int.from_bytes(start[4:8], "little")
    return PlanHeader(backend, ".".join(str(number) for number in start[24:28]) if layout == 0 else None)


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        what: hash, plan header, platform, TensorRT, driver or compute capability.
        outcome: "not checked" where this machine has nothing to check against.
        found: in words.
        error: to raise before the plan is run; None where it is fine.
    """

    what: str
    outcome: Outcome
    found: str
    error: HemfError | None = None


@dataclass(frozen=True)
class Preflight:
    """All that is known of an engine before it runs.

    Args:
        path: the plan.
        header: the plan's; None where it has none.
        manifest: the plan's; empty where there is none.
        checks: in order.
    """

    path: Path
    header: PlanHeader | None
    manifest: dict[str, Any]
    checks: tuple[Check, ...]

    @property
    def refusal(self) -> HemfError | None:
        """The first reason not to run it here, a missing GPU or TensorRT among them."""
        return next((check.error for check in self.checks if check.error is not None), None)

    @property
    def conflict(self) -> HemfError | None:
        """The first thing that is wrong with the engine, or that doesn't match this machine."""
        refused = (check.error for check in self.checks if check.outcome == "refused")
        return next((error for error in refused if error is not None), None)


def look(path: Path, machine: Machine, *, trust: bool = False) -> Preflight:
    """Check an engine against its manifest and a machine, without running any of it.

    Args:
        path: the plan.
        machine: to run it on.
        trust: accept a plan without a manifest, though nothing shows where it is from.
    """
    checks: list[Check] = []
    header: PlanHeader | None = None
    manifest: dict[str, Any] = {}
    try:
        header = read_header(path)
        stored = artifacts.read_manifest(path)
        manifest = stored or {}
        checks.append(_origin(path, stored, trust))
        if stored is not None:
            checks.append(_agreement(path, header, manifest))
    except BadInputError as error:
        checks.append(Check("file", "refused", error.message, error))
        return Preflight(path, header, manifest, tuple(checks))
    checks += _platform(path, manifest, machine)
    checks.append(_version(path, header, manifest, machine))
    checks += _driver(path, header, machine)
    checks.append(_capability(path, manifest, machine))
    return Preflight(path, header, manifest, tuple(checks))


def rebuild_call(manifest: dict[str, Any]) -> str:
    """The call that rebuilds the engine of a manifest, for a hint."""
    settings: dict[str, Any] = {} if manifest.get("parent") else {"precision": "fp16"}
    if manifest.get("precision") == "fp32":
        settings["precision"] = "fp32"
    settings["target"] = str(manifest.get("target", "t4"))
    if manifest.get("backend"):
        settings["backend"] = str(manifest["backend"])
    with suppress(HemfError, KeyError, TypeError, ValueError, AttributeError):  # an older manifest, or a changed one
        settings |= BuildOptions.from_dict(manifest["build"]).changed()
    words = [
        repr(str(manifest.get("parent", "MODEL.onnx"))),
        *(f"{name}={value!r}" for name, value in settings.items()),
    ]
    return f"`build_engine({', '.join(words)})`"


def _origin(path: Path, manifest: dict[str, Any] | None, trust: bool) -> Check:
    if manifest is None:
        if trust:
            return Check("manifest", "not checked", "none; trusted as it is")
        error = BadInputError(
            f"{path} has no manifest ({artifacts.manifest_path(path).name}): nothing tells what it is.",
            "A plan is executable code. Build it again, or say `trust` if you know where it is from.",
        )
        return Check("manifest", "refused", "none", error)
    if manifest.get("kind") != "engine":
        error = BadInputError(f"The manifest of {path} is of kind {manifest.get('kind')!r}, not of an engine.")
        return Check("manifest", "refused", f"of kind {manifest.get('kind')!r}", error)
    return Check("hash", "fine", f"SHA-256 {str(manifest['sha256'])[:16]}… as in the manifest")


def _agreement(path: Path, header: PlanHeader, manifest: dict[str, Any]) -> Check:
    """Check that the plan's header and its manifest describe the same build."""
    described = f"{manifest.get('backend')} {manifest.get('backend_version')}"
    own = f"{header.backend} {header.version or 'of an unknown version'}"
    same = header.backend == manifest.get("backend") and (
        header.version is None or header.agrees(str(manifest.get("backend_version")))
    )
    if same:
        return Check("plan header", "fine", own)
    error = BadInputError(
        f"{path} was serialized by {own}; its manifest says {described}.",
        f"One of them was put there by hand. Build it again: {rebuild_call(manifest)}",
    )
    return Check("plan header", "refused", own, error)


def _platform(path: Path, manifest: dict[str, Any], machine: Machine) -> list[Check]:
    wanted = manifest.get("platform")
    if wanted is None:
        return []
    if wanted == machine.platform:
        return [Check("platform", "fine", machine.platform)]
    error = MissingCapabilityError(
        f"{path} was built on {wanted}; here is {machine.platform}, and plans don't cross platforms.",
        f"Build it again here: {rebuild_call(manifest)}",
    )
    return [Check("platform", "refused", f"built on {wanted}, here is {machine.platform}", error)]


def _version(path: Path, header: PlanHeader, manifest: dict[str, Any], machine: Machine) -> Check:
    wanted = str(manifest.get("backend_version") or header.version)
    if header.version is not None and not header.agrees(wanted):
        wanted = header.version
    there = machine.versions.get(header.backend)
    what = "TensorRT"
    if there is None:
        error = MissingCapabilityError(
            f"{path} needs {header.backend} {wanted}, which is not installed here.",
            f"Install that version, or build for what is here: {rebuild_call(manifest)}",
        )
        return Check(what, "not checked", f"needs {header.backend} {wanted}; none here", error)
    later = manifest.get("version_compatible") and _numbers(there) >= _numbers(wanted)
    # Without a manifest the header alone tells the version.
    if there == wanted or later or (not manifest and header.agrees(there)):
        return Check(what, "fine", f"{header.backend} {there} here")
    error = MissingCapabilityError(
        f"{path} was built by {header.backend} {wanted}; here is {there}, and plans don't cross versions.",
        f"Build it again here: {rebuild_call(manifest)}",
    )
    return Check(what, "refused", f"{header.backend} {there} here, built by {wanted}", error)


def _numbers(version: str) -> list[int]:
    """The numbers of a version: `10.16.1.11`, or `10.0.0b6`."""
    return [int(number) for number in re.findall(r"\d+", version)]


def _driver(path: Path, header: PlanHeader, machine: Machine) -> list[Check]:
    """Check the driver; nothing where it or the CUDA version of the installed TensorRT isn't known."""
    wanted = machine.cuda.get(header.backend)
    if machine.driver is None or wanted is None:
        return []
    served = ".".join(map(str, machine.driver))
    # A driver supports all CUDA versions up to its own, and later ones of the same major version.
    if machine.driver[0] >= wanted:
        return [Check("driver", "fine", f"serves CUDA {served}, {header.backend} needs {wanted}")]
    error = MissingCapabilityError(
        f"{path} runs in {header.backend}, which is here built for CUDA {wanted}; the NVIDIA driver serves CUDA up to "
        f"{served}.",
        f"Update the driver, or install {header.backend} for CUDA {machine.driver[0]}.",
    )
    return [Check("driver", "refused", f"serves CUDA up to {served}, {header.backend} needs {wanted}", error)]


def _capability(path: Path, manifest: dict[str, Any], machine: Machine) -> Check:
    wanted = manifest.get("compute_capability")
    what = "compute capability"
    if machine.gpu is None:
        error = MissingCapabilityError(
            f"{path} needs a GPU of {wanted or 'its compute capability'}; none is seen here.",
            "Run it on that GPU. `doctor()` shows what this machine has.",
        )
        return Check(what, "not checked", f"for {wanted or 'an unknown one'}; no GPU here", error)
    here = f"sm_{machine.gpu[0]}{machine.gpu[1]}"
    if wanted is None:
        return Check(what, "not checked", f"the plan doesn't say; here is {here}")
    only = manifest.get("built_on") if manifest.get("hardware_compatible") is False else None
    if here == wanted and only is not None and machine.gpu_name not in (None, only):
        again = {**manifest, "build": {**manifest.get("build", {}), "hardware_compatible": True}}
        error = MissingCapabilityError(
            f"{path} was built for {only} alone; this GPU is {machine.gpu_name}, of the same compute capability.",
            f"Build it again here, or for all of {here}: {rebuild_call(again)}",
        )
        return Check(what, "refused", f"{here}, but built for {only} alone, here is {machine.gpu_name}", error)
    if here == wanted:
        return Check(what, "fine", here)
    rebuilt = {**manifest, "target": here}
    error = MissingCapabilityError(
        f"{path} was built for {wanted}; this GPU is {here}.", f"Build one for it: {rebuild_call(rebuilt)}"
    )
    return Check(what, "refused", f"built for {wanted}, here is {here}", error)
