"""How a calibration is shown: bars and steps while it runs, tables at its end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from calibration.budget import Budget, Step
from calibration.sensitivity import BlockSensitivity
from hemf.errors import UsageError
from hemf_export import console
from hemf_export.int8_choice import milliseconds
from hemf_export.precision_file import Made

_ISLANDS_SHOWN = 12
_DEFAULT_TARGET = "t4"  # of `trt`


class Progress:
    """A bar for each phase on a terminal, a line elsewhere; the search's steps as they end."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._steps = 0

    def phase(self, text: str, count: int, unit: str = "images") -> None:
        """A phase begins, over so many images or other units; 0 where nobody knows."""
        self.close()
        if not console.talk.is_terminal:
            console.say(f"{text}, {count} {unit} …" if count else f"{text} …")
        self._bar = console.bar(text, count or None)

    def advance(self, count: int) -> None:
        """Units that are done."""
        if self._bar is not None:
            console.advance(self._bar, count)

    def sensitivity(self, found: BlockSensitivity) -> None:
        """A block is measured: the bar tells enough."""

    def step(self, step: Step) -> None:
        """A step of the search has ended."""
        self._steps += 1
        found = step.found
        drop = "" if found.drop is None else f"drop {found.drop:+.2f} points, "
        console.say(
            f"  step {self._steps}: {len(step.blocks)} blocks, {step.share:.1%} of the work in INT8: {drop}"
            f"{found.agreement:.2%} agree, likely up to {max(0.0, step.likely_drop):.2f} points on others: "
            f"{'kept' if step.kept else 'too much'}"
        )

    def note(self, text: str) -> None:
        """What a user should know before more time is spent."""
        self.close()
        console.warn(text)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def show(made: Made, budget: Budget | None, target: str = _DEFAULT_TARGET) -> None:
    """The tables of a finished file, and the next command, for a target."""
    found, plan, conversion = made.graph.comparison, made.graph.plan, made.graph.conversion
    if plan is not None and plan.sensitivities:
        _sensitivities(plan.sensitivities, {product.block for product in plan.chosen})
    if conversion is not None and conversion.islands:
        _islands(made.manifest["conversion"]["float32_nodes_by_name"])
    if made.graph.gain is not None:
        _gain(made.manifest["int8_gain"])
    calibrated, held_out = made.manifest["calibration_images"], made.manifest["held_out_images"]
    rows = [
        ("size", console.size(made.path.stat().st_size)),
        ("products", _counts(made.types["products"])),
        ("nodes", f"{_counts(made.types['nodes'])}; {made.types['casts']} casts"),
        ("calibrated on", f"{calibrated['images']} images of {calibrated['folder']}{_classes(calibrated['classes'])}"),
        ("judged on", f"{held_out['images']} images of {held_out['folder']}{_classes(held_out['classes'])}"),
    ]
    if plan is not None and plan.chosen:
        tried = ", ".join(f"{name} {value:.1e}" for name, value in plan.methods.items())
        rows.append(("method", plan.method + (f" (KL of each: {tried})" if tried else "")))
        rows.append(("work in INT8", f"{plan.share:.1%} of the multiply-adds"))
        if budget is None and made.description.precision == "int8":
            rows.append(("faster than FP16", "not known: with --max-drop the engines are compared"))
        out = plan.to_dict()["blocks_left_out"]
        if out:
            rows.append(("blocks with more left", ", ".join(out)))
    if found.accuracy is not None and found.drop is not None and found.drop_interval is not None:
        low, high = found.drop_interval
        allowed = "" if budget is None or budget.max_drop is None else f", budget {budget.max_drop:g}"
        rows.append(("accuracy", f"{found.accuracy:.2%}, float32 {found.reference_accuracy:.2%}"))
        rows.append(("drop", f"{found.drop:.2f} points (95 %: {low:.2f} to {high:.2f}{allowed})"))
        rows.append(
            ("balanced accuracy", f"{found.balanced_accuracy:.2%}, float32 {found.reference_balanced_accuracy:.2%}")
        )
        likely = found.chances.likely_drop(found.images) if budget is None else budget.likely_drop(found)
        rows.append(("drop on other images", f"up to {max(0.0, likely):.2f} points, 19 times of 20"))
    rows.append(("agreement", f"{found.agreement:.2%}; of other images {1 - found.expected_changes:.2%} expected"))
    rows.append((f"largest {made.description.output.noun} difference", f"{found.max_difference:.2e}"))
    if made.reports:
        rows.append(("block by block", ", ".join(path.name for path in made.reports)))
    console.facts(str(made.path), rows)
    if made.description.precision == "int8-cpu":
        console.next_command("hemf-export bench", made.path)
    else:
        console.next_command("hemf-export trt", made.path, *([] if target == _DEFAULT_TARGET else ["--target", target]))


def triple(option: str, text: str | None) -> tuple[float, float, float] | None:
    """`R,G,B` as numbers.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
        if not all(map(math.isfinite, (red, green, blue))):
            raise ValueError("not finite")
    except ValueError as error:
        raise UsageError(f"{option} takes three numbers R,G,B, not {text!r}.") from error
    return red, green, blue


def _sensitivities(found: tuple[BlockSensitivity, ...], inside: set[str]) -> None:
    rows = []
    both = all(block.left_out is not None for block in found)
    for block in found:
        cells = [block.block, f"{block.share:.1%}"]
        for compared in (block.alone, block.left_out):
            if compared is not None:
                cells += [f"{compared.kl_divergence:.1e}", "" if compared.drop is None else f"{compared.drop:.2f}"]
        rows.append((*cells, "INT8" if block.block in inside else "float"))
    columns = ("block", "work", "alone: KL", "drop", *(("left out: KL", "drop") if both else ()), "in")
    images = found[0].alone.images
    console.table(f"What INT8 costs, block by block ({images} calibration images)", columns, rows)
    console.results.print()


def _gain(told: Mapping[str, Any]) -> None:
    """FP16 and INT8 side by side, and which of them was chosen."""
    in_int8 = told["chosen"]["int8_products"] > 0
    names = {"fp16": "FP16", "chosen": "INT8"} if in_int8 else {"chosen": "FP16", "best": "fastest in INT8"}
    rows = []
    for key, name in {**names, "all_int8": "all in INT8"}.items():
        own = told[key]
        if own is None:
            continue
        found = own["figures"]
        accuracy = "–"
        if found.get("accuracy") is not None:
            accuracy = f"{found['accuracy']:.2%} ({found['reference_accuracy']:.2%})"
        rows.append(
            (
                name + (", chosen" if key == "chosen" else ""),
                milliseconds(own["model_ms"]), f"{own['model_ms'] / told['fp16']['model_ms']:.3f}",
                f"{own['kernels']:,}", "–" if own["plan_bytes"] is None else console.size(own["plan_bytes"]),
                f"{own['share_of_multiply_adds']:.1%}", accuracy, f"{found['agreement']:.2%}",
            )
        )  # fmt: skip
    images = told["chosen"]["figures"]["images"]
    console.table(
        f"Engines of {told['backend']} {told['version']} for {told['sm']} at batch {told['batch']}, modelled at the "
        f"published rates of {told['rates_of']}; accuracy on {images} held-out images",
        ("engine", "modelled", "of FP16", "kernels", "size", "work in INT8", "accuracy (float32)", "agreement"),
        rows,
    )  # fmt: skip
    console.results.print()


def _islands(islands: list[dict[str, str]]) -> None:
    """The float32 nodes, by block and reason."""
    groups = Counter((island["block"], island["reason"]) for island in islands)
    first = {(island["block"], island["reason"]): island["node"] for island in reversed(islands)}
    rows = [(block, str(count), first[block, reason], reason) for (block, reason), count in groups.items()]
    more = f", {len(rows) - _ISLANDS_SHOWN} more groups in the manifest" if len(rows) > _ISLANDS_SHOWN else ""
    title = f"{len(islands)} nodes stay in float32{more}"
    console.table(title, ("block", "nodes", "the first of them", "why"), rows[:_ISLANDS_SHOWN], words=(0, 2, 3))
    console.results.print()


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "none"


def _classes(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else ""
