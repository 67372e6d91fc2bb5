"""Plot each block's sensitivity to int8 beside its share of the multiply-adds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from hemf_export.calibration.trials import BlockSensitivity
from hemf_export.files import artifacts

_INSIDE, _OUTSIDE = "#1f5f99", "#d98032"
_LEAST = 1e-9  # smaller divergences are drawn as this on the logarithmic axis


def save(sensitivities: Sequence[BlockSensitivity], int8: Sequence[str], title: str, path: Path) -> None:
    """Draw the blocks in graph order, those in `int8` darker, and write a PNG atomically."""
    from matplotlib.artist import Artist
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    height = 1.9 + 0.24 * len(sensitivities)
    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    damage, work = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    places = range(len(sensitivities))
    inside = [block.block in int8 for block in sensitivities]
    colours = [_INSIDE if in_int8 else _OUTSIDE for in_int8 in inside]
    damage.barh(places, [max(_LEAST, block.alone.kl_divergence) for block in sensitivities], color=colours, height=0.72)
    left = [None if block.left_out is None else max(_LEAST, block.left_out.kl_divergence) for block in sensitivities]
    if None not in left:
        damage.plot(left, places, "k|", markersize=9)
    damage.set_xscale("log")
    damage.set_xlabel("KL divergence from float32, in nats")
    damage.set_yticks(places, [block.block for block in sensitivities])
    damage.set_ylim(len(sensitivities) - 0.4, -0.6)
    damage.grid(axis="x", alpha=0.3)
    work.barh(places, [100 * block.share for block in sensitivities], color=colours, height=0.72)
    work.set_xlabel("% of the multiply-adds")
    work.grid(axis="x", alpha=0.3)
    marks: list[Artist] = [
        Patch(color=_INSIDE, label="alone in INT8; kept in INT8"),
        Patch(color=_OUTSIDE, label="alone in INT8; left in float"),
    ]
    if None not in left:
        label = "everything in INT8 but this block"
        marks.append(Line2D([], [], color="black", marker="|", linestyle="", markersize=9, label=label))
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    artifacts.write_bytes(path, buffer.getvalue())
