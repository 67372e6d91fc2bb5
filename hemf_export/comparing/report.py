"""Comparison of networks as the paper's Tables 6 to 9 have it: size, metrics, latency, and McNemar's test of each pair.

The paper's sizes stand beside a network that it lists at its image size; its metrics only where the images are those of
the paper too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf_export.checkpoints.reading import Reading
from hemf_export.comparing.latency import Latencies
from hemf_export.files import artifacts
from hemf_export.metrics import pairwise
from hemf_export.metrics.pairwise import Pair
from hemf_export.networks import published, registry
from hemf_export.networks.configuration import NetworkConfig
from hemf_export.networks.count import Count
from hemf_export.networks.published import DataSet, Published
from hemf_export.pages.table import Table, giga, markdown_table
from hemf_export.train import ablation, ablation_report
from hemf_export.train.ablation import Outcome, Row, judged_on
from hemf_export.train.ablation_report import JSON_NAME, MARKDOWN_NAME, TITLES
from hemf_export.train.datasets import published_sets
from hemf_export.train.run import Images, Options

_COEFFICIENTS = {"mcc": "MCC", "kappa": "kappa"}
_METRIC_TITLES = {*TITLES.values(), *_COEFFICIENTS.values(), "runs"}
_SMALL = 0.001  # p-values below it are written so
_DATA_SETS: dict[DataSet, str] = {"isic2018": "ISIC2018", "kvasir": "Kvasir", "covid-ct": "COVID-19 CT"}


@dataclass(frozen=True)
class Tests:
    """McNemar's tests of all pairs of networks that were trained with one seed.

    Args:
        seeds: seed of each network.
        images: number of images.
        pairs: every pair, with p-values corrected for their number.
    """

    seeds: Mapping[str, int]
    images: int
    pairs: tuple[Pair, ...]

    def between(self, name: str, other: str) -> Pair | None:
        """Find the test of two networks, in either order; None without one."""
        return next((pair for pair in self.pairs if {pair.first, pair.second} == {name, other}), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON: the pairs, and p-values as a square matrix in the order of the networks."""
        names = list(self.seeds)

        def square(name: str) -> list[list[float | None]]:
            found = ((self.between(one, other) for other in names) for one in names)
            return [[None if pair is None else getattr(pair, name) for pair in line] for line in found]

        return {
            "seeds": dict(self.seeds),
            "images": self.images,
            "networks": names,
            "p_values": square("p_value"),
            "corrected": square("corrected"),
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


@dataclass(frozen=True)
class NetworkComparison:
    """Results of networks that were trained and judged on the same images.

    Args:
        rows: results of each configuration.
        options: what all runs have in common.
        images: the images.
        tests: McNemar's tests, one for each seed; empty until two networks were trained.
        latencies: latencies on this machine; None where they weren't measured.
    """

    rows: tuple[Row, ...]
    options: Options
    images: Images
    tests: tuple[Tests, ...] = ()
    latencies: Latencies | None = None

    @property
    def best(self) -> str | None:
        """Name of the configuration with the highest mean accuracy, the first of equals; None if none was trained."""
        trained = [row for row in self.rows if "accuracy" in row.mean]
        return max(trained, key=lambda row: row.mean["accuracy"]).configuration.name if trained else None

    @property
    def data_set(self) -> DataSet | None:
        """The paper's data set that the images are; None for others."""
        return published_sets.recognize(self.images.splits.values())

    @property
    def title(self) -> str:
        """Describe the images in one line."""
        judges = self.images.splits[judged_on(self.images)]
        return (
            f"{self.options.data.resolve().name}, {self._image_size} px, {len(self.images.train.classes)} classes, "
            f"{len(self.images.train)} training images; {judged_on(self.images)}: {len(judges)} images"
        )

    @property
    def _image_size(self) -> int:
        return self.rows[0].config.image_size

    def columns_and_cells(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Lay out the table: titles, and one tuple a configuration."""
        several = any(len(row.outcomes) > 1 for row in self.rows)
        named = [row.configuration.name != row.config.name for row in self.rows]
        printed = [published.of_network(row.config.to_dict()) for row in self.rows]
        data_set = self.data_set
        titles = ["network", *["is"] * any(named), "params M", "multiply-adds G", *TITLES.values()]
        titles += [*_COEFFICIENTS.values(), *["runs"] * several]
        if self.latencies is not None:
            titles.append("latency ms")
        if self.tests:
            titles += ["p", "p, Holm"]
        if any(printed):
            titles.append("paper: M / G")
        if any(printed) and data_set:
            titles += ["paper: acc / F1 / prec / recall %", "paper: MCC / kappa"]
        cells = []
        for row, network in zip(self.rows, printed, strict=True):
            line = [row.configuration.name, *[row.config.name] * any(named)]
            line += [f"{row.parameters / 1e6:.2f}", giga(_multiply_adds(row.config))]
            line += [ablation_report.figure(row, name) for name in TITLES]
            line += [_coefficient(row, name) for name in _COEFFICIENTS]
            if several:
                line.append(f"{sum(outcome.summary is not None for outcome in row.outcomes)} of {len(row.outcomes)}")
            if self.latencies is not None:
                median = self.latencies.median_ms(row.configuration.name)
                line.append("" if median is None else f"{median:.3g}" if median < 100 else f"{median:.0f}")
            if self.tests:
                line += self._test_cells(row.configuration.name)
            if any(printed):
                line += _paper_cells(network, data_set)
            cells.append(tuple(line))
        return titles, cells

    def tables(self) -> list[Table]:
        """Lay out the same as several tables that are narrow enough for a terminal: metrics, the rest, the paper's."""
        titles, cells = self.columns_and_cells()
        words = [place for place, title in enumerate(titles) if title in ("network", "is")]
        paper = [place for place, title in enumerate(titles) if title.startswith("paper: ")]
        metrics = [place for place, title in enumerate(titles) if title in _METRIC_TITLES]
        rest = [place for place in range(len(titles)) if place not in {*words, *metrics, *paper}]

        def part(title: str, places: Sequence[int]) -> Table:
            columns = [*words, *places]
            rows = [tuple(line[place] for place in columns) for line in cells]
            return Table(title, tuple(titles[place] for place in columns), rows, tuple(range(len(words))))

        parts = [part(self.title, metrics), part("\nsize, latency and tests", rest)]
        return parts + [part("\nas published", paper)] * bool(paper)

    def _test_cells(self, name: str) -> list[str]:
        if name == self.best:
            return ["best", "best"]
        pair = self.tests[0].between(name, self.best) if self.best is not None else None
        return ["", ""] if pair is None else [_p_value(pair.p_value), _p_value(pair.corrected)]

    def notes(self) -> list[str]:
        """Explain the table, in sentences."""
        notes = []
        if self.latencies is not None:
            notes += [self.latencies.describe(), *self.latencies.notes]
        if self.tests and self.best is not None:
            tested = self.tests[0]
            seeds = sorted(set(tested.seeds.values()))
            word = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
            notes.append(
                f"p: McNemar's exact test against {self.best}, which has the highest accuracy, on the {tested.images} "
                f"images ({word}); beside it corrected for all {len(tested.pairs)} pairs (Holm), which {JSON_NAME} has."
            )
        if any(published.of_network(row.config.to_dict()) for row in self.rows):
            notes += self._paper_notes()
        return notes

    def _paper_notes(self) -> list[str]:
        """Explain the paper's figures: their table, doubtful figures, sizes that can't be counted again."""
        notes, data_set = [], self.data_set
        if data_set is not None:
            notes.append(f"The paper's metrics are those of {_DATA_SETS[data_set]}, from splits of its own.")
        for row in self.rows:
            network = published.of_network(row.config.to_dict())
            if network is None:
                continue
            if network.reason:
                notes.append(f"{row.configuration.name}, published size: {network.reason}")
            if data_set is not None:
                for doubt in published.DOUBTS.get((row.config.name, data_set), ()):
                    title = _COEFFICIENTS[doubt.figure]
                    notes.append(
                        f"{row.configuration.name}, the paper's {title}: doubtful. {doubt.reason} "
                        f"It would be {doubt.corrected:.4f}."
                    )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Everything, in plain types; shares are 0 to 1, the paper's figures percent as it prints them."""
        values = ablation_report.to_dict(self.rows, self.options, self.images)
        data_set = self.data_set
        for line, row in zip(values["configurations"], self.rows, strict=True):
            line["multiply_adds"] = _multiply_adds(row.config)
            line["published"] = _published(row.config, data_set)
        return {
            **values,
            "data_set": data_set,
            "best": self.best,
            "mcnemar": [tests.to_dict() for tests in self.tests],
            "latency": None if self.latencies is None else self.latencies.to_dict(),
            "notes": self.notes(),
        }

    def markdown(self) -> str:
        """The table as Markdown, with what it is of."""
        titles, cells = self.columns_and_cells()
        words = (0, 1) if titles[1] == "is" else (0,)
        lines = ["# Networks compared", "", f"{self.title}. {ablation_report.seeds(self.rows)}", ""]
        lines += markdown_table(titles, cells, words)
        remarks = [*self.notes(), *(one.failure for row in self.rows for one in row.outcomes if one.error is not None)]
        return "\n".join([*lines, *([""] if remarks else []), *(f"- {remark}" for remark in remarks)]) + "\n"

    def write(self, folder: Path) -> None:
        """Write ablation.json and ablation.md in `folder`, each atomically."""
        artifacts.write_json(folder / JSON_NAME, self.to_dict())
        artifacts.write_bytes(folder / MARKDOWN_NAME, self.markdown().encode())


def compare(
    outcomes: Sequence[Outcome], options: Options, images: Images, latencies: Latencies | None = None
) -> NetworkComparison:  # fmt: skip
    """Compare networks by the results of their runs, and test every pair by the predictions beside their checkpoints.

    Args:
        outcomes: results of `train.ablation.run`.
        options: what all runs have in common.
        images: their images.
        latencies: latencies by configuration.
    """
    rows = tuple(ablation.rows(outcomes, options, images))
    return NetworkComparison(rows, options, images, tuple(_tests(rows, images)), latencies)


def checkpoints(comparison: NetworkComparison) -> dict[str, tuple[Path, Reading]]:
    """Checkpoint of each configuration, of its first run that was trained, and how it is read.

    Configurations of which no run was trained are left out.
    """
    found = {}
    for row in comparison.rows:
        trained = (outcome for outcome in row.outcomes if outcome.summary is not None)
        if (first := next(trained, None)) is not None:
            reading = ablation.reading(row.configuration, comparison.options)
            found[row.configuration.name] = (first.member.folder / "best.pt", reading)
    return found


def _tests(rows: Sequence[Row], images: Images) -> list[Tests]:
    """Test all pairs of networks among the first runs of all, then among the second, and so on."""
    judges = images.splits[judged_on(images)]
    truth = np.asarray(judges.labels)
    tests = []
    for place in range(max((len(row.outcomes) for row in rows), default=0)):
        right: dict[str, NDArray[np.bool_]] = {}
        seeds = {}
        for row in rows:
            outcome = row.outcomes[place] if place < len(row.outcomes) else None
            if outcome is None or outcome.summary is None:
                continue
            logits = ablation.predicted(outcome.member.folder, outcome.summary, images)
            if logits is not None:
                name = row.configuration.name
                right[name], seeds[name] = logits.argmax(1) == truth, outcome.member.seed
        if len(right) > 1:
            tests.append(Tests(seeds, len(judges), tuple(pairwise.compare_all(right))))
    return tests


@functools.lru_cache(maxsize=64)
def _multiply_adds(config: NetworkConfig) -> int:
    """Multiply-adds of all products for one image."""
    return sum(registry.count_parts(config).values(), Count()).products


def _coefficient(row: Row, name: str) -> str:
    if name not in row.mean:
        return ""
    deviation = f" ± {row.deviation[name]:.3f}" if name in row.deviation else ""
    return f"{row.mean[name]:.3f}{deviation}"


def _p_value(value: float) -> str:
    return f"< {_SMALL}" if value < _SMALL else f"{value:.3f}"


def _paper_cells(network: Published | None, data_set: DataSet | None) -> list[str]:
    columns = 3 if data_set else 1
    if network is None:
        return [""] * columns
    cells = [f"{network.parameters_m:.2f} / {network.multiply_adds_g:.2f}"]
    if data_set is None:
        return cells
    metrics = network.results[data_set]
    coefficients = [f"{value:.4f}" for value in metrics[4:] if value is not None]
    return [*cells, " / ".join(f"{value:.2f}" for value in metrics[:4]), " / ".join(coefficients)]


def _published(config: NetworkConfig, data_set: DataSet | None) -> dict[str, Any] | None:
    network = published.of_network(config.to_dict())
    if network is None:
        return None
    values: dict[str, Any] = {
        "name": network.title,
        "parameters_m": network.parameters_m,
        "multiply_adds_g": network.multiply_adds_g,
        "reason": network.reason,
    }
    if data_set is not None:
        values["metrics"] = network.results[data_set]._asdict()
        values["doubts"] = [doubt._asdict() for doubt in published.DOUBTS.get((config.name, data_set), ())]
    return values
