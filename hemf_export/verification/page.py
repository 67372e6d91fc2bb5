"""Render a verification as an HTML page, from its JSON and small pictures of the changed images."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from hemf_export.images.images import decode
from hemf_export.pages import census_text, report_page
from hemf_export.pages.figures import cosine, fixed, millions, percent, points, small
from hemf_export.pages.report_page import Section, escaped, figure, key, page, table
from hemf_export.precision import compiled_precision
from hemf_export.verification import text
from hemf_export.verification.verification import Verification

_DEFINITIONS = (
    "Recall, precision, F1, MCC, kappa and AUC as scikit-learn defines them; macro: the mean over the classes. AUC: "
    "one class against the rest. ECE: expected calibration error, 15 bins of equal width (Guo et al. 2017). Brier "
    "score: summed over the classes, 0 to 2. Points are percentage points; positive drops are losses. The interval of "
    "the drop is a paired bootstrap over the images; McNemar's test is exact and two-sided. KL divergence in nats, of "
    "the candidate's probabilities from the reference's, mean over the images. Emulated float16 rounds every result as "
    "a GPU does and sums in float32. Hashes show that files are the same, not who made them."
)

Show = Callable[[Any], str]

_SHEET = 60  # changed images of a candidate that are shown
_THUMBNAIL = 160  # pixels of the longer side
_WHOLE, _OWN, _BEYOND = "#7f8c99", "#2f7fc1", "#d6483f"  # distinguishable on white and on black


def html(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """Render the page.

    Args:
        report: the JSON of a verification.
        pictures: data URIs of images by their names in the report; see `thumbnails`.
    """
    verdict = '<span class="good">Passed</span>' if report["passed"] else '<span class="bad">FAILED</span>'
    lead = (
        f"<p>{verdict}: {escaped(text.title(report))}; checkpoint "
        f"<code>{escaped(report['checkpoint_sha256'])}</code>.</p>"
    )
    sections = [
        Section("Verdict", _verdict(report)),
        Section("Figures of each model", _metrics(report)),
        Section("Against the reference", _paired(report)),
        Section("Bounds", _bounds(report)),
        Section("Compared with the baseline", _baseline(report)),
        Section("Confusion matrices", _confusions(report)),
        Section("Images that changed class", _changed_images(report, pictures)),
        Section("What the files store", _stored(report)),
        Section("Error along the network", _divergence(report)),
        Section("Kernels of the engines", _kernels(report)),
        Section("What was run", _provenance(report)),
        Section("Definitions", f'<p class="soft">{escaped(_DEFINITIONS)}</p>'),
    ]
    return page(f"Verification: {', '.join(candidate['file'] for candidate in report['candidates'])}", lead, sections)


def thumbnails(verification: Verification) -> dict[str, str]:
    """Make data URIs of the images that changed class in any candidate, as many of each candidate as the page shows."""
    indices = {index for candidate in verification.candidates for index in candidate.comparison.changed[:_SHEET]}
    pictures = {}
    for index in sorted(indices):
        image = decode(verification.images.paths[index])
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        pictures[verification.name_of(index)] = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return pictures


def _verdict(report: Mapping[str, Any]) -> str:
    rows = []
    for candidate in report["candidates"]:
        mark = '<span class="good">passed</span>' if candidate["passed"] else '<span class="bad">FAILED</span>'
        why = "".join(f"<li>{escaped(item['text'])}</li>" for item in candidate["missed"])
        rows.append((escaped(candidate["file"]), mark, f"<ul>{why}</ul>" if why else "every bound holds"))
    located = "".join(f"<p>{escaped(line)}</p>" for line in text.first_nodes(report))
    doubts = "".join(f"<p>{escaped(line)}</p>" for line in text.doubts(report))
    remarks = "".join(f'<p class="soft">{escaped(line)}</p>' for line in text.remarks(report))
    return table(("file", "verdict", "missed"), rows, words=(0, 1, 2)) + located + doubts + remarks


def _metrics(report: Mapping[str, Any]) -> str:
    subjects = [("reference", report["reference"])]
    subjects += [(f"candidates/{index}", candidate) for index, candidate in enumerate(report["candidates"])]
    if all(subject["metrics"] is None for _, subject in subjects):
        return ""
    lines: list[tuple[str, str, Show]] = [
        ("accuracy", "accuracy", percent), ("balanced accuracy", "balanced_accuracy", percent),
        ("macro precision", "macro_precision", percent), ("macro F1", "macro_f1", percent), ("MCC", "mcc", fixed),
        ("kappa", "kappa", fixed), ("AUC", "auc", fixed), ("ECE", "ece", fixed), ("Brier score", "brier", fixed),
        ("cross-entropy", "loss", fixed),
    ]  # fmt: skip
    lines += [(f"recall of {name}", f"recall/{key(name)}", percent) for name in report["classes"]]
    rows = [
        (escaped(name), *(figure(report, f"{place}/metrics/{own}", show) for place, _ in subjects))
        for name, own, show in lines
    ]
    return table(("", *(f"{subject['file']} ({subject['precision']})" for _, subject in subjects)), rows)


def _paired(report: Mapping[str, Any]) -> str:
    noun = text.noun(report)
    lines: list[tuple[str, str, Show]] = [
        ("agreement", "agreement", percent), ("images that changed class", "changed", str),
        ("images not finite", "not_finite", str), ("drop in accuracy, points", "accuracy_drop_points", points),
        ("its 95 % interval, from", "accuracy_drop_interval_points/0", points),
        ("to", "accuracy_drop_interval_points/1", points),
        ("drop in balanced accuracy, points", "balanced_accuracy_drop_points", points),
        ("McNemar: right only in the reference", "mcnemar/losses", str),
        ("McNemar: right only here", "mcnemar/gains", str), ("McNemar: p", "mcnemar/p_value", fixed),
        (f"{noun} difference, largest", "logit_difference/max", small),
        (f"{noun} difference, 99th percentile", "logit_difference/p99", small),
        (f"{noun} difference, mean", "logit_difference/mean", small), (f"largest {noun}", "largest_logit", fixed),
        ("cosine of the outputs, mean", "cosine/mean", cosine), ("cosine, least", "cosine/min", cosine),
        ("KL divergence", "kl_divergence", small),
    ]  # fmt: skip
    rows = [
        (
            escaped(name),
            *(
                figure(report, f"candidates/{i}/against_reference/{own}", show)
                for i in range(len(report["candidates"]))
            ),
        )
        for name, own, show in lines
    ]
    return table(("", *(candidate["file"] for candidate in report["candidates"])), rows)


def _bounds(report: Mapping[str, Any]) -> str:
    names: list[tuple[str, str, Show]] = [
        (f"largest {text.noun(report)} difference", "max_logit_difference", small),
        ("least agreement", "min_agreement", percent),
        ("drop in accuracy, points", "max_drop", points),
    ]  # fmt: skip
    rows = []
    for index, candidate in enumerate(report["candidates"]):
        place, origin = f"candidates/{index}/bounds", candidate["bounds"]["origin"]
        rows += [
            (escaped(candidate["file"]), escaped(name), figure(report, f"{place}/{own}", show), escaped(origin[own]))
            for name, own, show in names
        ]
        rows += [
            (
                escaped(candidate["file"]),
                f"drop in recall of {escaped(name)}, points",
                figure(report, f"{place}/max_recall_drop/{key(name)}", points),
                escaped(origin["max_recall_drop"]),
            )
            for name in candidate["bounds"]["max_recall_drop"]
        ]
    note = '<p class="soft">A default lets one image change, however few there are.</p>'
    return table(("file", "bound", "allowed", "where it is from"), rows, words=(0, 1, 3)) + note


def _baseline(report: Mapping[str, Any]) -> str:
    if "baseline" not in report:
        return ""
    rows = [
        (
            escaped(item["candidate"]),
            escaped(item["name"]),
            figure(report, f"baseline/figures/{index}/before", percent),
            figure(report, f"baseline/figures/{index}/now", percent),
            figure(report, f"baseline/figures/{index}/lost_points", points),
            figure(report, f"baseline/figures/{index}/bound_points", points),
            '<span class="bad">worse</span>' if item["missed"] else '<span class="good">holds</span>',
        )
        for index, item in enumerate(report["baseline"]["figures"])
    ]
    return table(("file", "figure", "before", "now", "lost, points", "allowed", "verdict"), rows, words=(0, 1, 6))


def _confusions(report: Mapping[str, Any]) -> str:
    """Render the confusion matrix of each model that has one."""
    subjects = [("reference", report["reference"])]
    subjects += [(f"candidates/{index}", candidate) for index, candidate in enumerate(report["candidates"])]
    matrices = []
    for place, subject in subjects:
        if subject["metrics"] is None:
            continue
        rows = []
        for true, counts in enumerate(subject["metrics"]["confusion"]):
            cells = [
                f'<td style="--share: {count / max(1, sum(counts)):.3f}">'
                + figure(report, f"{place}/metrics/confusion/{true}/{predicted}")
                + "</td>"
                for predicted, count in enumerate(counts)
            ]
            rows.append(f'<tr><th scope="row">{escaped(report["classes"][true])}</th>{"".join(cells)}</tr>')
        heads = "".join(f'<th scope="col">{escaped(name)}</th>' for name in report["classes"])
        matrices.append(
            f'<div><h3>{escaped(subject["file"])}</h3><div class="scroll"><table class="confusion short"><thead><tr>'
            f"<th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
        )
    note = '<p class="soft">Rows: the true class; columns: the predicted one; shaded by the share of the row.</p>'
    return f'{note}<div class="grid">{"".join(matrices)}</div>' if matrices else ""


def _changed_images(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """Render a contact sheet per candidate: its changed images, with the two likeliest classes on either side."""
    parts = []
    for index, candidate in enumerate(report["candidates"]):
        images = candidate["changed_images"]
        if not images:
            continue
        shown = f", the first {_SHEET}" if len(images) > _SHEET else ""
        parts.append(f"<h3>{escaped(candidate['file'])}: {len(images)} images{shown}</h3><div class='sheet'>")
        for number, item in enumerate(images[:_SHEET]):
            place = f"candidates/{index}/changed_images/{number}"
            picture = pictures.get(item["image"])
            drawn = f'<img src="{escaped(picture)}" alt="">' if picture else ""
            true = f"true: {escaped(item['label'])}<br>" if item["label"] is not None else ""
            sides = [
                f"{side}: {_likeliest(report, f'{place}/{side}', item[side])}" for side in ("reference", "candidate")
            ]
            parts.append(
                f"<figure>{drawn}<figcaption><code>{escaped(item['image'])}</code><br>{true}{'<br>'.join(sides)}"
                "</figcaption></figure>"
            )
        parts.append("</div>")
    return "".join(parts) or "<p>None.</p>"


def _likeliest(report: Mapping[str, Any], place: str, values: Mapping[str, Any]) -> str:
    if values["class"] is None:
        return '<span class="bad">not finite</span>'
    ranked = sorted(values["probabilities"], key=lambda name: -values["probabilities"][name])[:2]
    likely = [f"{escaped(name)} {figure(report, f'{place}/probabilities/{key(name)}', percent)}" for name in ranked]
    return ", ".join(likely)


def _stored(report: Mapping[str, Any]) -> str:
    rows = []
    for index, candidate in enumerate(report["candidates"]):
        if "stored" not in candidate:
            continue
        place, steps = f"candidates/{index}/stored", candidate["stored"]["steps"]["compared"]
        rows.append(
            (
                escaped(candidate["file"]),
                escaped(candidate["stored"]["float32_file"]),
                figure(report, f"{place}/weights/compared"),
                figure(report, f"{place}/weights/largest_error", small),
                figure(report, f"{place}/weights/bound", small),
                figure(report, f"{place}/steps/compared"),
                figure(report, f"{place}/steps/largest_excess", small) if steps else "",
                figure(report, f"{place}/steps/excess_bound", small) if steps else "",
                figure(report, f"{place}/steps/most_clipped", percent) if steps else "",
                figure(report, f"{place}/steps/clipped_bound", percent) if steps else "",
            )
        )
    head = (
        "file",
        "beside",
        "weights",
        "largest error",
        "bound",
        "steps",
        "largest excess",
        "bound",
        "most clipped",
        "bound",
    )
    note = (
        '<p class="soft">Error of a weight: of its worst channel, by its norm, a step of rounding let pass. Excess: '
        "how many times the levels of a quantized activation go beyond what the float32 values are expected to reach, "
        "from some of the images. Clipped: the share of the values' squares that is beyond the levels.</p>"
    )
    return table(head, rows, words=(0, 1)) + note if rows else ""


def _divergence(report: Mapping[str, Any]) -> str:
    parts = []
    for index, candidate in enumerate(report["candidates"]):
        where = candidate.get("divergence")
        if where is None:
            continue
        beyond = [
            (
                escaped(node["node"]),
                escaped(node["operator"]),
                escaped(node["block"]),
                figure(report, f"candidates/{index}/divergence/beyond/{number}/own_error", small),
                figure(report, f"candidates/{index}/divergence/beyond/{number}/error", small),
            )
            for number, node in enumerate(where["beyond"])
        ]
        parts.append(
            f'<div class="keep"><h3>{escaped(candidate["file"])} beside {escaped(where["float32_file"])}</h3>'
            f"<p>Bound of a node's own error: {figure(report, f'candidates/{index}/divergence/bound', small)}; "
            f"nodes beyond it: {figure(report, f'candidates/{index}/divergence/nodes_beyond')}."
            + "".join(f" <strong>{escaped(name)} stores other numbers.</strong>" for name in where["damaged"])
            + "</p>"
            + f'<div class="scroll wide">{draw_divergence(where, candidate["file"])}</div></div>'
            + (table(("node", "operator", "block", "own error", "error"), beyond, words=(0, 1, 2)) if beyond else "")
        )
    return "".join(parts)


def draw_divergence(where: Mapping[str, Any], name: str) -> str:
    """Draw both errors of each node of a candidate's `divergence`, in graph order, below the names of the blocks."""
    nodes = where["nodes"]
    top = max([1.0, *(value for node in nodes for value in (node["error"], node["own_error"]) if value is not None)])
    whole = [_drawn(node["error"], top) for node in nodes]
    own = [_drawn(node["own_error"], top) for node in nodes]
    places = range(len(nodes))
    beyond = [place for place in places if nodes[place]["own_error"] is None or own[place] > where["bound"]]
    with report_page.drawing(11, 4.6) as drawing:
        axes = drawing.add_subplot()
        axes.set_yscale("log")
        axes.plot(places, whole, color=_WHOLE, linewidth=1.1, label="with all that came before")
        axes.plot(places, own, ".", color=_OWN, markersize=3.5, label="of the node itself, on exact inputs")
        axes.plot(
            beyond,
            [own[place] for place in beyond],
            "D",
            color=_BEYOND,
            markersize=6,
            label="beyond the bound",
            clip_on=False,
        )
        damaged = [place for place in places if nodes[place]["node"] in where["damaged"]]
        if damaged:
            heights = [own[place] for place in damaged]
            axes.plot(damaged, heights, "X", color=_BEYOND, markersize=9, label="stores other numbers", clip_on=False)
        axes.axhline(where["bound"], color=_BEYOND, linewidth=0.9, linestyle="--")
        start = 0
        for index, (block, members) in enumerate(groupby(node["block"] for node in nodes)):
            end = start + len(list(members))
            if index % 2:
                axes.axvspan(start - 0.5, end - 0.5, color=_WHOLE, alpha=0.12, linewidth=0)
            if end - start > len(nodes) / 60:  # a narrower one has no room for its name
                axes.text(
                    (start + end - 1) / 2, 1.01, block, rotation=90, fontsize=7, ha="center", va="bottom",
                    transform=axes.get_xaxis_transform(), parse_math=False,
                )  # fmt: skip
            start = end
        axes.set_xlim(-0.5, len(nodes) - 0.5)
        axes.set_xlabel("node, in graph order")
        axes.set_ylabel("error, by the norm of the float32 value")
        drawing.legend(loc="outside lower center", fontsize=8, framealpha=0, ncols=3)
        axes.grid(axis="y", alpha=0.25)
        return report_page.svg(drawing, f"Error along the network of {name}")


def _drawn(value: float | None, top: float) -> float:
    """Place values that aren't finite above all others, and leave out an error of zero, which has no logarithm."""
    if value is None:
        return 3 * top
    return value if value > 0 else math.nan


def _kernels(report: Mapping[str, Any]) -> str:
    """Render a table of the engines built from the files, where their manifests record the kernels."""
    rows, remarks = [], []
    for index, candidate in enumerate(report["candidates"]):
        for number, engine in enumerate(candidate.get("engines", ())):
            place = f"candidates/{index}/engines/{number}"
            census, int8 = engine["census"], engine["compiled_precision"]
            types = [
                f"{figure(report, f'{place}/census/products/{key(dtype)}')} in {escaped(census_text.title_of(dtype))}"
                for dtype in census["products"]
            ]
            sized = census["activation_bytes"] is not None
            sizes = [
                figure(report, f"{place}/census/{name}", millions) if sized else census_text.UNSIZED
                for name in ("activation_bytes", "weight_bytes")
            ]
            share = f"{place}/compiled_precision/share_of_multiply_adds"
            rows.append(
                (
                    escaped(engine["file"]), escaped(candidate["file"]), escaped(census["sm"]),
                    figure(report, f"{place}/census/kernels"), *sizes, escaped(census["batch"] or "–"),
                    ", ".join(types), figure(report, f"{place}/census/fused_attentions"),
                    "" if int8 is None else figure(report, share, percent),
                )
            )  # fmt: skip
            broken = None if int8 is None else compiled_precision.remark(int8)
            if broken is not None:
                remarks.append(f'<p><span class="bad">{escaped(engine["file"])}</span>: {escaped(broken)}</p>')
    if not rows:
        return ""
    columns = (
        "engine", "of", "for", "kernels", "activations, MB", "weights, MB", "at batch", "products",
        "fused attentions", "work in INT8",
    )  # fmt: skip
    note = (
        '<p class="soft">As the builder lists them: what was compiled, not what ran. Bytes are those that the kernels '
        "read and write at that batch size.</p>"
    )
    return table(columns, rows, words=(0, 1, 2, 7)) + "".join(remarks) + note


def _provenance(report: Mapping[str, Any]) -> str:
    rows = [
        (
            escaped(subject["file"]),
            escaped(subject["precision"]),
            escaped(subject["runner"]),
            f"<code>{escaped(subject['sha256'])}</code>",
        )
        for subject in (report["reference"], *report["candidates"])
    ]
    images = report["images"]
    counts = ", ".join(f"{escaped(name)} {count}" for name, count in images["classes"].items())
    versions = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in report["versions"].items())
    return (
        table(("file", "precision", "runner", "SHA-256"), rows, words=(0, 1, 2, 3))
        + f"<p>Images: <code>{escaped(images['path'])}</code>, {images['images']}{f' ({counts})' if counts else ''}; "
        f"SHA-256 of their names <code>{escaped(images['names_sha256'])}</code>. Seed of the bootstrap: "
        f"{escaped(report['seed'])}.</p><p class='soft'>{versions}</p>"
    )
