"""What this machine has, which commands can work on it, and how to mend what they lack.

    from hemf_export.doctor import checkup
    report = checkup.examine()
    print(report.fit, [ability.reason for ability in report.abilities if not ability.can])

Nothing that may be broken is imported into this process: see `doctor.probing`.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hemf_export import __version__
from hemf_export.doctor import components
from hemf_export.doctor.components import PACKAGES, Component, package
from hemf_export.doctor.probing import TIMEOUT_S, Finding, probe_all


@dataclass(frozen=True)
class Use:
    """A command, or a way to run it, and the components without which it can't.

    Args:
        command: its name.
        needs: names of components; "a or b" where one of them is enough.
        how: which way.
        gains: components that it can do without → what is lost then.
        optional: needs more than a CPU and the required packages, so that to lack it is no failure.
    """

    command: str
    needs: tuple[str, ...]
    how: str = ""
    gains: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False

    @property
    def label(self) -> str:
        """`trt with tensorrt`."""
        return f"{self.command} {self.how}".strip()

    def takes(self, component: str) -> bool:
        """Whether it needs a component, or gains by it."""
        return component in self.gains or any(component in need.split(" or ") for need in self.needs)


@dataclass(frozen=True)
class Ability:
    """Whether a command can work here.

    Args:
        command: and the way to run it.
        can: work.
        reason: why not, or what it goes without.
        optional: it is no failure if it can't.
        lacking: the needs that are not met, those left out that only follow from others.
    """

    command: str
    can: bool
    reason: str
    optional: bool
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that was found."""

    components: tuple[Component, ...]
    abilities: tuple[Ability, ...]

    @property
    def fit(self) -> bool:
        """Whether all can work that needs no GPU and no optional package."""
        return not self.unfit

    @property
    def unfit(self) -> tuple[Ability, ...]:
        """What can't work, though it needs neither."""
        return tuple(ability for ability in self.abilities if not ability.can and not ability.optional)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"fit": self.fit, **dataclasses.asdict(self)}


_MODEL = ("torch", "numpy", "safetensors", "filelock", "Pillow")
_GRAPH = (*_MODEL, "onnx", "onnx-ir", "onnxscript", "onnxruntime", "scipy")
_TRAIN = (*_MODEL, "scikit-learn", "scipy", "matplotlib")
_GPU = ("GPU", "driver", "CUDA in torch")
# What can't be there without another: where that is lacking already, nothing is gained by saying both.
_FOLLOWS = {"driver": {"GPU"}, "CUDA in torch": {"GPU", "torch"}}
USES = (
    Use("train", _TRAIN),
    Use("evaluate", (*_GRAPH, "scikit-learn", "matplotlib")),
    Use("explain", (*_GRAPH, "scikit-learn", "matplotlib")),
    Use("onnx", _GRAPH, gains={"onnxsim": "graphs are not simplified"}),
    Use("calibrate", (*_GRAPH, "matplotlib")),
    Use("finetune", _GRAPH),
    Use("bench", _GRAPH),
    Use("verify", (*_GRAPH, "scikit-learn", "matplotlib")),
    Use("predict", _GRAPH),
    Use("triton", (*_GRAPH, "tritonclient"), optional=True),
    Use("triton-client", (*_GRAPH, "tritonclient"), optional=True),
    Use("bundle", (*_GRAPH, "zstandard"), gains={"tritonclient": "no repository for Triton"}),
    Use("ship", (*_TRAIN, *_GRAPH, "zstandard"), gains={"tritonclient": "no repository for Triton"}),
    Use("self-test", (*_GRAPH, "zstandard"), how="of bundles"),
    Use("train", (*_TRAIN, *_GPU), how="on GPU with AMP", optional=True),
    Use("trt", (*_GRAPH, "tensorrt-rtx"), how="with tensorrt-rtx", optional=True),
    Use("trt", (*_GRAPH, *_GPU, "tensorrt"), how="with tensorrt", optional=True),
    Use("predict", (*_GRAPH, *_GPU, "tensorrt or tensorrt-rtx"), how="with engines", optional=True),
    Use("self-test", (*_GRAPH, *_GPU, "tensorrt or tensorrt-rtx"), how="of engines", optional=True),
)


def examine(*, timeout_s: float = TIMEOUT_S) -> Report:
    """Look at everything.

    Args:
        timeout_s: for each import, in a child process of its own; one that takes longer counts as broken.
    """
    packages = {name: ("package", module) for name, (module, _) in PACKAGES.items()}
    findings = probe_all({**packages, "driver": ("driver",)}, timeout_s=timeout_s)
    if findings["driver"].facts.get("gpus") and findings["torch"].facts.get("cuda_build"):
        # Only here: without a GPU, torch would be imported again to no end.
        findings |= probe_all({"CUDA in torch": ("torch-cuda",)}, timeout_s=timeout_s)
    return report(findings)


def report(findings: Mapping[str, Finding]) -> Report:
    """Components, and what commands can make of them, from the findings of all probes."""
    driver = components.driver(findings["driver"])
    gpu = components.gpu(findings["driver"], driver)
    examined = (
        Component("Python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        Component("hemf-export", "ok", __version__),
        *(package(name, findings[name]) for name in PACKAGES),
        driver,
        gpu,
        components.cuda_in_torch(gpu, findings["torch"], findings.get("CUDA in torch")),
        *components.disks(),
        components.processor(),
    )
    complete = tuple(dataclasses.replace(component, needed_by=needed_by(component.name)) for component in examined)
    return Report(complete, tuple(judge(use, complete) for use in USES))


def judge(use: Use, components: Sequence[Component]) -> Ability:
    """Whether a command can be used in a way, from what there is."""
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
    """Commands that need a component: by name where every way to run it does, else by the ways that do."""
    named = []
    for command in dict.fromkeys(use.command for use in USES):
        ways = [use for use in USES if use.command == command]
        takers = [use for use in ways if use.takes(component)]
        named.extend([command] if len(takers) == len(ways) else [use.label for use in takers])
    return tuple(named)
