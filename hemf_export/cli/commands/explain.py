"""`hemf-export explain`: where in an image a checkpoint sees the class."""

from __future__ import annotations

from pathlib import Path

import click

import hemf_export
from hemf_export.cli.options import (
    PATH,
    Command,
    batch_option,
    checkpoint_options,
    classes_option,
    force_option,
    json_option,
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
@checkpoint_options
@click.option("--feature-layer", metavar="NAME",
              help="Module whose output the maps are of.  [default: the last feature map]")  # fmt: skip
@batch_option()
@json_option()
def command(
    file: Path, images: tuple[Path, ...], class_name: str | None, output: Path | None, force: bool,
    classes: tuple[str, ...] | None, batch: int, as_json: bool, weights: str | None, image_size: int | None,
    factory: str | None,
    feature_layer: str | None,
) -> None:  # fmt: skip
    """Draw which parts of each IMAGE its predicted class rests on: Grad-CAM++ of the last feature map.

    An IMAGE may be a folder, which is searched at any depth. There is one PNG per image, with the crop that the
    network saw, the map, and both together; several images get contact sheets too. A map is a hint at what to look
    at and no proof: it is coarse, and scaled to its own maximum.
    """
    from hemf_export.cli import console, next_step
    from hemf_export.cli.progress import ConsoleProgress

    explanation = hemf_export.explain(
        file, images, output, class_=class_name, classes=classes, weights=weights, image_size=image_size,
        factory=factory,
        feature_layer=feature_layer, batch=batch,
        force=force, progress=ConsoleProgress(),
    )  # fmt: skip
    for note in explanation.notes:
        console.warn(note)
    values, folder = explanation.to_dict(), explanation.path
    if as_json:
        console.print_json({**values, "folder": str(folder)}, allow_nan=False)
        return
    rows = [
        (
            console.printable(Path(one["image"]).name),
            one["class"],
            f"{one['probability']:.1%}",
            one["predicted"] + " ✗" * (one["true"] not in (None, one["predicted"])),
            console.printable(one["picture"]),
        )
        for one in values["images"][:_SHOWN]
    ]
    more = len(values["images"]) - len(rows)
    title = f"{file.name}: {len(values['images'])} image{'s' * (len(values['images']) != 1)}"
    columns = ("image", "class explained", "probability", "predicted", "picture")
    console.table(title + f", the first {len(rows)}" * (more > 0), columns, rows, words=(0, 1, 3, 4))
    (height, width), size = values["cells"], values["size"]
    console.say(
        f"{folder}: explanation.json, a PNG an image{_sheets(values['sheets'])}. "
        f"The map has {height} × {width} cells of {size // height} × {size // width} pixels: no finer than that."
    )
    next_step.show(file)


def _sheets(names: list[str]) -> str:
    if len(names) < 3:
        return "".join(f", {name}" for name in names)
    return f", {names[0]} to {names[-1]}"
