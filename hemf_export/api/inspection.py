"""Inspect files, count a network's parameters and multiply-adds, and check this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from hemf_export.api.results import PathLike, Shown, names_of
from hemf_export.files.errors import HemfError, MissingCapabilityError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.pages.table import Table, giga

if TYPE_CHECKING:
    from hemf_export.doctor.checkup import Ability
    from hemf_export.doctor.components import Component
    from hemf_export.networks.configuration import NetworkConfig
    from hemf_export.networks.count import Count
    from hemf_export.networks.published import Published


@dataclass(frozen=True)
class Inspection(Shown):
    """Result of inspecting a file.

    Args:
        path: path of the file.
        kind: `checkpoint`, `onnx` or `engine`.
        description: names and values that describe it.
        values: the same for programs, in plain types.
        checks: checks with outcome and finding.
        tables: tables of an engine's kernels.
        conflict: why the file can't be used, here or at all; None if it can.
        notes: remarks for the user.
    """

    path: Path
    kind: Literal["checkpoint", "onnx", "engine"]
    description: tuple[tuple[str, str], ...] = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)
    checks: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)
    tables: tuple[Table, ...] = field(default=(), repr=False)
    conflict: HemfError | None = None
    notes: tuple[str, ...] = ()

    def require(self) -> None:
        """Raise `conflict`, if there is one."""
        if self.conflict is not None:
            raise self.conflict

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types."""
        return {"file": str(self.path), **self.values}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {"file": str(self.path), **dict(self.description)}


@dataclass(frozen=True)
class NetworkInfo(Shown):
    """Parameters and multiply-adds of a network by part.

    Args:
        name: name that the network is registered by, such as hemf-base, with its variant.
        title: its architecture: name, authors and source.
        config: the network's configuration, in plain types.
        parts: counts by part: `parameters` and `products` (multiply-adds of one image), and both in the published way
            (`paper_parameters`, `paper`).
        counting: how the published way of counting differs, in a sentence.
        table_3: the paper's Table 3 recounted, for the network that it lists.
        published: the paper's figures of the network: its size, its metrics by data set, and the reason where the
            size can't be counted again; None for a network that its tables don't list.
        description: names and values that describe the checkpoint; none for a size.
        notes: remarks on the checkpoint for the user.
    """

    name: str
    title: str
    config: Mapping[str, Any] = field(repr=False)
    parts: Mapping[str, Count] = field(repr=False)
    counting: str = field(default="", repr=False)
    table_3: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    published: Published | None = None
    description: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> Count:
        """Sum over the parts."""
        first, *others = self.parts.values()
        for other in others:
            first += other
        return first

    def to_dict(self) -> dict[str, Any]:
        """Convert the counts to plain types."""
        printed = self.published
        return {
            "name": self.name,
            "title": self.title,
            "config": dict(self.config),
            "parts": {name: vars(part) for name, part in self.parts.items()},
            "total": vars(self.total),
            "counting": self.counting,
            "published": None if printed is None else {
                "name": printed.title, "parameters_m": printed.parameters_m,
                "multiply_adds_g": printed.multiply_adds_g, "reason": printed.reason,
            },
            "table_3": list(self.table_3),
        }  # fmt: skip

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        total = self.total
        return {
            "network": self.name,
            "parameters": f"{total.parameters / 1e6:.3f} M",
            "multiply-adds": f"{total.products / 1e9:.3f} G",
        }


@dataclass(frozen=True)
class NetworkList(Shown, Sequence[NetworkInfo]):
    """List of every registered network."""

    networks: tuple[NetworkInfo, ...]

    def __len__(self) -> int:
        return len(self.networks)

    @overload
    def __getitem__(self, index: int) -> NetworkInfo: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[NetworkInfo]: ...

    def __getitem__(self, index: int | slice) -> NetworkInfo | Sequence[NetworkInfo]:
        return self.networks[index]

    @property
    def table(self) -> Table:
        """Table of names, image sizes, parameters and multiply-adds."""
        rows = [
            (info.name, f"{info.total.parameters / 1e6:.2f}", giga(info.total.products),
             str(info.config["image_size"]), info.title)
            for info in self
        ]  # fmt: skip
        classes = self[0].config["num_classes"]
        columns = ("name", "parameters M", "multiply-adds G", "image", "architecture")
        return Table(f"networks, {classes} classes", columns, rows, words=(0, 4))

    def to_dict(self) -> dict[str, Any]:
        """Convert the counts to plain types."""
        return {"networks": [info.to_dict() for info in self]}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {
            info.name: f"{total.parameters / 1e6:.2f} M parameters, {total.products / 1e9:.2f} G multiply-adds"
            for info, total in ((info, info.total) for info in self)
        }


@dataclass(frozen=True)
class Checkup(Shown):
    """Components of this machine, and which commands work on it.

    Args:
        components: packages, GPU, driver, disks: each with its status, details and the fix.
        abilities: commands, each with whether it works here, and the reason.
        values: all of it in plain types.
        problem: error about commands that need no GPU and don't work; None if all do.
    """

    components: tuple[Component, ...] = field(repr=False)
    abilities: tuple[Ability, ...] = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)
    problem: MissingCapabilityError | None = None

    @property
    def fit(self) -> bool:
        """Whether everything works that needs no GPU and no optional package."""
        return self.problem is None

    @property
    def tables(self) -> tuple[Table, ...]:
        """Tables of the components and the commands."""
        from hemf_export.doctor import checkup

        abilities = [(one.command, "can" if one.can else "cannot", one.reason) for one in self.abilities]
        return (
            Table("this machine", ("", "found", "status", "needed by", "fix"), checkup.rows(self.components),
                  tuple(range(5))),
            Table("commands", ("", "here", "reason"), abilities, tuple(range(3))),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types."""
        return dict(self.values)

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {one.command: "can" if one.can else f"cannot: {one.reason}" for one in self.abilities}


def inspect(
    file: PathLike, *, classes: Sequence[str] | None = None, weights: str | None = None,
    image_size: int | None = None, factory: str | None = None, trust: bool = False, layers: bool = False,
    progress: Progress = SILENT,
) -> Inspection:  # fmt: skip
    """Inspect a checkpoint, an ONNX file or an engine, with its manifest and its proof, without running it.

    Args:
        file: file to inspect.
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint.
        image_size: input size in pixels, for a checkpoint that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        trust: accept an engine without a manifest, whose origin is then unknown.
        layers: list every kernel of an engine.
        progress: receives the steps.

    Returns:
        The inspection. For an engine that can't run here `conflict` is the reason, which `require` raises.

    Raises:
        BadInputError: no such file, or a damaged one.

    Examples:
        >>> hemf_export.inspect("best.onnx").kind
        'onnx'
    """
    from hemf_export import file_facts
    from hemf_export.checkpoints.reading import Reading

    path = Path(file)
    with progress.task(f"Reading {path.name}"):
        facts = file_facts.facts_of(
            path,
            classes=names_of(classes),
            reading=Reading(weights, image_size, factory),
            trust=trust,
            every_kernel=layers,
        )
    return Inspection(
        path, facts.kind, tuple(facts.facts), facts.values, tuple(facts.checks), tuple(facts.tables), facts.conflict,
        tuple(facts.notes),
    )  # fmt: skip


def info(
    model: PathLike | None = None, *, variant: str | None = None, num_classes: int = 7,
    image_size: int | None = None, factory: str | None = None, weights: str | None = None,
    classes: Sequence[str] | None = None, progress: Progress = SILENT,
) -> NetworkInfo:  # fmt: skip
    """Count the parameters and multiply-adds of a size or a checkpoint, by part.

    Args:
        model: name of a registered network (see `list_networks`), `package.module:function` of one of your own, or a
            checkpoint; None for hemf-base, or the network of `factory`.
        variant: reduced network of the paper's ablation, for a size of HEMF.
        num_classes: number of classes, for a size.
        image_size: input size in pixels, for a size or a checkpoint that leaves it open; None for its own, or 224.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        weights: which set of weights of a training checkpoint.
        classes: class names, for a checkpoint that has none.
        progress: receives the steps.

    Raises:
        UsageError: a variant given for a checkpoint, which records its own.
        BadInputError: no such size, variant or file.

    Examples:
        >>> hemf_export.info("hemf-tiny", num_classes=3).facts()["network"]
        'hemf-tiny'
    """
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.models.model_file import CheckpointFile
    from hemf_export.networks import registry
    from hemf_export.networks.configuration import WHOLE
    from hemf_export.networks.factory import is_name

    model = os.fspath(model or factory or "hemf-base")
    path, wanted = Path(model), WHOLE if variant is None else variant
    description, notes = list[tuple[str, str]](), tuple[str, ...]()
    config: NetworkConfig
    if model in registry.SIZES or model == factory or not (path.exists() or path.suffix) or is_name(model):
        config = registry.registered(model, num_classes=num_classes, image_size=image_size, variant=wanted)
    else:
        if wanted != WHOLE:
            raise UsageError(f"{model} records its own network.", "Leave out `variant`.")
        from hemf_export import file_facts

        saved = CheckpointFile.open(
            path, classes=names_of(classes), reading=Reading(weights, image_size, factory)
        ).load()
        config, notes = saved.config, tuple(saved.notes)
        description = [*file_facts.checkpoint_rows(saved), ("SHA-256", saved.sha256)]
        if saved.dropped:
            names = ", ".join(saved.dropped)
            description.append(("left out", f"{len(saved.dropped)} tensors that take no part: {names}"))
    with progress.task(f"Counting {config.name}"):
        return _info(config, tuple(description), notes)


def list_networks(*, num_classes: int = 7, progress: Progress = SILENT) -> NetworkList:
    """List every registered network with its parameters and multiply-adds.

    Args:
        num_classes: number of classes.
        progress: receives the number of networks counted.

    Raises:
        BadInputError: no network has so many classes.

    Examples:
        >>> "hemf-tiny" in [network.name for network in hemf_export.list_networks()]
        True
    """
    from hemf_export.networks import registry

    networks = []
    with progress.task("Counting", len(registry.SIZES), "networks") as task:
        for name in registry.SIZES:
            networks.append(_info(registry.registered(name, num_classes=num_classes)))
            task.advance()
    return NetworkList(tuple(networks))


def _info(
    config: NetworkConfig, description: tuple[tuple[str, str], ...] = (), notes: tuple[str, ...] = ()
) -> NetworkInfo:  # fmt: skip
    from hemf_export.networks import published, registry

    family = registry.family_of(config)
    return NetworkInfo(
        config.name, family.title, config.to_dict(), family.count(config), family.paper_counting,
        family.table_3(config), published.of_network(config.to_dict()), description, notes,
    )  # fmt: skip


def doctor(*, timeout: float = 60.0, progress: Progress = SILENT) -> Checkup:
    """Check this machine's components, which commands work, and how to fix those that don't.

    Every package is imported in a child process: one that crashes or hangs is reported as broken.

    Args:
        timeout: time limit of an import in seconds.
        progress: receives the steps.

    Returns:
        The checkup; `fit` is whether everything works that needs no GPU.

    Examples:
        >>> hemf_export.doctor().fit
        True
    """
    from hemf_export.doctor import checkup

    with progress.task("Importing each package in a process of its own"):
        report = checkup.examine(timeout_s=timeout)
    return Checkup(report.components, report.abilities, report.to_dict(), report.problem)
