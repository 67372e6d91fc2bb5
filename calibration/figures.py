"""Pictures of a calibration: how much each block suffers from int8, beside the work that it carries."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from calibration.sensitivity import BlockSensitivity
from hemf import artifacts

_LEAST = 1e-9  # a divergence below is drawn as this, on the logarithmic axis


def save_sensitivity(found: Sequence[BlockSensitivity], int8: Sequence[str], title: str, path: Path) -> None:
    """Draw the blocks in graph order, those in `int8` darker, and write a PNG atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 1.6 + 0.27 * len(found)
    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    damage, work = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    places = range(len(found))
    inside = [block.block in int8 for block in found]
    colours = ["#1f5f99" if taken else "#d98032" for taken in inside]
    damage.barh(places, [max(_LEAST, block.alone.kl_divergence) for block in found], color=colours, height=0.72)
    left = [max(_LEAST, block.left_out.kl_divergence) for block in found]
    damage.plot(left, places, "k|", markersize=9, label="everything in INT8 but this block")
    damage.set_xscale("log")
    damage.set_xlabel("KL divergence from float32, in nats (bar: this block alone in INT8)")
    damage.set_yticks(places, [block.block for block in found])
    damage.invert_yaxis()
    damage.grid(axis="x", alpha=0.3)
    damage.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1 - 1.2 / height), frameon=False, fontsize=9)
    work.barh(places, [100 * block.share for block in found], color=colours, height=0.72)
    work.set_xlabel("% of the multiply-adds")
    work.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{title}\nblue: in INT8   orange: left in float", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    artifacts.write_bytes(path, buffer.getvalue())
