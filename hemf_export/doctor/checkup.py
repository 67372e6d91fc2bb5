"""Check this machine's components, which commands work with them, and how to fix those that don't.

    from hemf_export.doctor import checkup
    report = checkup.examine()
    print(report.fit, [ability.reason for ability in report.abilities if not ability.can])

Packages that may be broken are never imported into this process: see `doctor.probing`.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hemf_export import __version__
from hemf_export.doctor import components
from hemf_export.doctor.components import OTHER_PACKAGES, PACKAGES, Component, package
from hemf_export.doctor.probing import TIMEOUT_S, Finding, probe_all
from hemf_export.files.errors import MissingCapabilityError


@dataclass(frozen=True)
class Use:
    """Use of a command, with the components that it requires.

    Args:
        command: name of the command.
        needs: names of required components; "a or b" if either suffices.
        how: variant of the command, such as "with tensorrt"; empty for all.
        gains: optional component → what is lost without it.
        optional: whether it needs more than a CPU and the required packages, so that its absence is no failure.
    """

    command: str
    needs: tuple[str, ...]
    how: str = ""
    gains: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False

    @property
    def label(self) -> str:
        """Name of the use, such as `trt with tensorrt`."""
        return f"{self.command} {self.how}".strip()

    def takes(self, component: str) -> bool:
        """Return whether it requires a component or gains from it."""
        return component in self.gains or any(component in need.split(" or ") for need in self.needs)


@dataclass(frozen=True)
class Ability:
    """Verdict on one use of a command on this machine.

    Args:
        command: label of the use.
        can: whether it works here.
        reason: why not, or what is lost.
        optional: whether its absence is no failure.
        lacking: unmet requirements, without those that follow from others.
    """

    command: str
    can: bool
    reason: str
    optional: bool
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Result of a checkup: all components and abilities."""

    components: tuple[Component, ...]
    abilities: tuple[Ability, ...]

    @property
    def fit(self) -> bool:
        """Whether everything works that needs no GPU and no optional package."""
        return not self.unfit

    @property
    def unfit(self) -> tuple[Ability, ...]:
        """Abilities that fail although they need neither a GPU nor an optional package."""
        return tuple(ability for ability in self.abilities if not ability.can and not ability.optional)

    @property
    def problem(self) -> MissingCapabilityError | None:
        """Return an error that names what fails, why, and the fix; None if nothing does."""
        if self.fit:
            return None
        commands = ", ".join(ability.command for ability in self.unfit)
        reasons = ", ".join(dict.fromkeys(ability.reason for ability in self.unfit))
        lacking = {name for ability in self.unfit for name in ability.lacking}
        fixes = dict.fromkeys(component.fix for component in self.components if component.name in lacking)
        return MissingCapabilityError(f"Some commands can't work here ({commands}): {reasons}.", "\n  ".join(fixes))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for JSON."""
        return {"fit": self.fit, **dataclasses.asdict(self)}


_MODEL = ("torch", "numpy", "safetensors", "filelock", "Pillow")
_GRAPH = (*_MODEL, "onnx", "onnx-ir", "onnxscript", "onnxruntime", "scipy")
_TRAIN = (*_MODEL, "scikit-learn", "scipy", "matplotlib")
_GPU = ("GPU", "driver", "CUDA in torch")
# Component → others that it can't work without: if one of those is missing, only that one is reported.
_FOLLOWS = {"driver": {"GPU"}, "CUDA in torch": {"GPU", "torch"}}
USES = (
    Use("train", _TRAIN),
    Use("evaluate", (*_GRAPH, "scikit-learn", "matplotlib")),
    Use("explain", (*_GRAPH, "scikit-learn", "matplotlib")),
    Use("onnx", _GRAPH, gains={"onnxsim": "graphs are not simplified"}),
    Use("calibrate", (*_GRAPH, "matplotlib")),
    Use("finetune", _GRAPH),
    Use("bench", (*_GRAPH, "Jinja2", "nvidia-ml-py")),
    Use("verify", (*_GRAPH, "scikit-learn", "matplotlib", "Jinja2")),
    Use("predict", _GRAPH),
    Use("triton", (*_GRAPH, "tritonclient"), optional=True),
    Use("triton-client", (*_GRAPH, "tritonclient"), optional=True),
    Use("bundle", (*_GRAPH, "Jinja2", "zstandard"), gains={"tritonclient": "no repository for Triton"}),
    Use(
        "ship",
        (*_TRAIN, *_GRAPH, "Jinja2", "nvidia-ml-py", "zstandard"),
        gains={"tritonclient": "no repository for Triton"},
    ),
    Use("self-test", (*_GRAPH, "zstandard"), how="of bundles"),
    Use("train", (*_TRAIN, *_GPU), how="on GPU with AMP", optional=True),
    Use("trt", (*_GRAPH, "tensorrt-rtx"), how="with tensorrt-rtx", optional=True),
    Use("trt", (*_GRAPH, *_GPU, "tensorrt"), how="with tensorrt", optional=True),
    Use("predict", (*_GRAPH, *_GPU, "tensorrt or tensorrt-rtx"), how="with engines", optional=True),
    Use("self-test", (*_GRAPH, *_GPU, "tensorrt or tensorrt-rtx"), how="of engines", optional=True),
)


def examine(*, timeout_s: float = TIMEOUT_S) -> Report:
    """Examine all components.

    Args:
        timeout_s: time limit of each import, which runs in its own child process; a slower one counts as broken.
    """
    packages = {name: ("package", module, distribution) for name, (module, distribution) in PACKAGES.items()}
    findings = probe_all({**packages, "driver": ("driver",)}, timeout_s=timeout_s)
    if findings["driver"].facts.get("gpus") and findings["torch"].facts.get("cuda_build"):
        # Only here: without a GPU, importing torch again would be in vain.
        findings |= probe_all({"CUDA in torch": ("torch-cuda",)}, timeout_s=timeout_s)
    return report(findings)


def report(findings: Mapping[str, Finding]) -> Report:
    """Derive components and abilities from the findings of all probes."""
    driver = components.driver(findings["driver"])
    gpu = components.gpu(findings["driver"], driver)
    examined = (
        Component("Python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        Component("hemf-export", "ok", __version__),
        *(package(name, findings[name]) for name in PACKAGES),
        driver,
        gpu,
        components.cuda_in_torch(gpu, driver, findings["torch"], findings.get("CUDA in torch")),
        *components.disks(),
        components.processor(),
    )
    complete = tuple(dataclasses.replace(component, needed_by=needed_by(component.name)) for component in examined)
    return Report(complete, tuple(ability(use, complete) for use in USES))


def ability(use: Use, components: Sequence[Component]) -> Ability:
    """Decide whether a use of a command works with these components."""
    there = {component.name: component for component in components}
    lacking: dict[str, str] = {}
    for need in use.needs:
        choices = [there[name] for name in need.split(" or ")]
        if not any(choice.usable for choice in choices) and not lacking.keys() & _FOLLOWS.get(need, set()):
            status = "broken" if any(choice.status == "broken" for choice in choices) else "missing"
            lacking[need] = f"{need} is {status}"
    if lacking:
        return Ability(use.label, False, "; ".join(lacking.values()), use.optional, tuple(lacking))
    lost = [f"without {name}, {loss}" for name, loss in use.gains.items() if not there[name].usable]
    return Ability(use.label, True, "; ".join(lost), use.optional)


def needed_by(component: str) -> tuple[str, ...]:
    """List the commands that need a component: by name if every use does, else the uses that do."""
    named = []
    for command in dict.fromkeys(use.command for use in USES):
        ways = [use for use in USES if use.command == command]
        takers = [use for use in ways if use.takes(component)]
        named.extend([command] if len(takers) == len(ways) else [use.label for use in takers])
    return tuple(named)


def rows(components: Sequence[Component]) -> list[tuple[str, ...]]:
    """Return a table row for each component; packages that only matter if they fail share one."""
    sound = [one for one in components if one.name in OTHER_PACKAGES and one.status == "ok"]
    lines = [_cells(one) for one in components if one not in sound]
    if sound:
        shared = ", ".join(f"{one.name} {one.found}" for one in sound)
        place = [line[0] for line in lines].index("driver")
        lines.insert(place, ("other packages", shared, "ok", "", ""))
    return lines


def _cells(component: Component) -> tuple[str, ...]:
    commands = {use.command for use in USES}
    users = "every command" if commands <= set(component.needed_by) else ", ".join(component.needed_by)
    return component.name, component.found, component.status, users, component.fix
