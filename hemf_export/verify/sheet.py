"""What a verification's page shows of images: confusion matrices, and a contact sheet of those that changed class."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from hemf.images import decode
from hemf_export.figures import percent
from hemf_export.report_page import escaped, figure, key
from hemf_export.verify.verified import Verification

SHEET = 60  # changed images of a candidate that are shown
_THUMBNAIL = 160  # pixels of the longer side


def thumbnails(found: Verification) -> dict[str, str]:
    """Small pictures of the images that changed class in any candidate, as many of each as are shown."""
    wanted = {index for candidate in found.candidates for index in candidate.paired.changed[:SHEET]}
    made = {}
    for index in sorted(wanted):
        image = decode(found.images.paths[index])
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        made[found.name_of(index)] = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return made


def confusions(report: Mapping[str, Any]) -> str:
    """The confusion matrix of each model that has one."""
    subjects = [("reference", report["reference"])]
    subjects += [(f"candidates/{index}", candidate) for index, candidate in enumerate(report["candidates"])]
    made = []
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
        made.append(
            f'<div><h3>{escaped(subject["file"])}</h3><div class="scroll"><table class="confusion short"><thead><tr>'
            f"<th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
        )
    note = '<p class="soft">Rows: the true class; columns: the predicted one; shaded by the share of the row.</p>'
    return f'{note}<div class="grid">{"".join(made)}</div>' if made else ""


def changed(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The contact sheet of each candidate: its changed images, with the two likeliest classes on either side."""
    parts = []
    for index, candidate in enumerate(report["candidates"]):
        images = candidate["changed_images"]
        if not images:
            continue
        shown = f", the first {SHEET}" if len(images) > SHEET else ""
        parts.append(f"<h3>{escaped(candidate['file'])}: {len(images)} images{shown}</h3><div class='sheet'>")
        for number, item in enumerate(images[:SHEET]):
            place = f"candidates/{index}/changed_images/{number}"
            picture = pictures.get(item["image"])
            drawn = f'<img src="{escaped(picture)}" alt="">' if picture else ""
            true = f"true: {escaped(item['label'])}<br>" if item["label"] is not None else ""
            sides = [f"{side}: {_side(report, f'{place}/{side}', item[side])}" for side in ("reference", "candidate")]
            parts.append(
                f"<figure>{drawn}<figcaption><code>{escaped(item['image'])}</code><br>{true}{'<br>'.join(sides)}"
                "</figcaption></figure>"
            )
        parts.append("</div>")
    return "".join(parts) or "<p>None.</p>"


def _side(report: Mapping[str, Any], place: str, values: Mapping[str, Any]) -> str:
    if values["class"] is None:
        return '<span class="bad">not finite</span>'
    ranked = sorted(values["probabilities"], key=lambda name: -values["probabilities"][name])[:2]
    likely = [f"{escaped(name)} {figure(report, f'{place}/probabilities/{key(name)}', percent)}" for name in ranked]
    return ", ".join(likely)
