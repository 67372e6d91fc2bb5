"""`hemf-export explain`: where in an image a checkpoint sees the class."""

from __future__ import annotations

from pathlib import Path

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import (
    PATH,
    Command,
    batch_option,
    classes_option,
    force_option,
    json_option,
    reading_options,
)

_SHOWN = 20  # images in the table


@click.command("explain", cls=Command)
@click.argument("file", metavar="CKPT", type=PATH)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=PATH)
@click.option("--class", "class_name", metavar="NAME", help="Explain this class.  [default: the predicted one]")
@click.option("-o", "--output", type=PATH, metavar="DIR",
              help="Folder for the pictures.  [default: CKPT.explained beside the checkpoint]")  # fmt: skip
@force_option("earlier explanations in that folder")
@classes_option()
@reading_options
@batch_option()
@json_option()
def command(
    file: Path, images: tuple[Path, ...], class_name: str | None, output: Path | None, force: bool,
    classes: tuple[str, ...] | None, batch: int, as_json: bool, reading: Reading,
) -> None:  # fmt: skip
    """Draw where in each IMAGE the score of its class comes from: Grad-CAM++ of the last fused feature map.

    An IMAGE may be a folder: all images below it are taken. A PNG an image shows the crop that the network saw, the
    map, and both together; several images get sheets too. A map is a hint at what to look at, no proof: it is coarse,
    and scaled to its own maximum.
    """
    from hemf_export.cli import console, next_step
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.evaluation import explanation
    from hemf_export.files import artifact_folder, locks

    request = explanation.Request(
        file, images, class_name, classes, batch,
        reading,
    )  # fmt: skip
    folder = output or explanation.default_folder(file)
    click.get_current_context().with_resource(locks.owned(folder))
    artifact_folder.check(folder, explanation.MARK, force=force)
    found = explanation.explain(request, folder, force=force, progress=ConsoleProgress())
    for note in found["notes"]:
        console.warn(note)
    if found["passed_over"]:
        console.warn(f"{len(found['passed_over'])} files passed over, as not images by their names.")
    empty = [one["image"] for one in found["images"] if one["empty"]]
    if empty:
        console.warn(f"Nothing speaks for the class in {len(empty)} of {len(found['images'])} images: empty maps.")
    if as_json:
        console.print_json({**found, "folder": str(folder)}, allow_nan=False)
        return
    rows = [
        (
            console.printable(Path(one["image"]).name),
            one["class"],
            f"{one['probability']:.2%}",
            one["predicted"] + " ✗" * (one["true"] not in (None, one["predicted"])),
            console.printable(one["picture"]),
        )
        for one in found["images"][:_SHOWN]
    ]
    more = len(found["images"]) - len(rows)
    title = f"{file.name}: {len(found['images'])} image{'s' * (len(found['images']) != 1)}"
    columns = ("image", "class explained", "probability", "predicted", "picture")
    console.table(title + f", the first {len(rows)}" * (more > 0), columns, rows, words=(0, 1, 3, 4))
    (height, width), size = found["cells"], found["size"]
    console.say(
        f"{folder}: explanation.json, a PNG an image{_sheets(found['sheets'])}. "
        f"The map has {height} × {width} cells of {size // height} × {size // width} pixels: no finer than that."
    )
    next_step.show(file)


def _sheets(names: list[str]) -> str:
    if len(names) < 3:
        return "".join(f", {name}" for name in names)
    return f", {names[0]} to {names[-1]}"
