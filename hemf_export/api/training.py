"""Images with labels → checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hemf_export.api.results import PathLike, TrainResult
from hemf_export.files.progress import SILENT, Progress

if TYPE_CHECKING:
    from hemf_export.train.recipe import Recipe


def train(
    data: PathLike, output: PathLike, *, model: str = "hemf-base",
    recipe: Recipe | PathLike | Mapping[str, Any] | None = None, variant: str | None = None, image_size: int = 224,
    preprocess: Literal["crop", "squash"] = "crop", teacher: PathLike | None = None,
    device: str = "auto", amp: str | None = None, channels_last: bool = True,
    compile: bool = False, workers: int | None = None, resume: bool = False, skip_unreadable: bool = False,
    progress: Progress = SILENT,
) -> TrainResult:  # fmt: skip
    """Train a network on class folders of images.

    Args:
        data: folder with train/ and val/ (and test/), each with a folder of images per class.
        output: the run's folder: best.pt, last.pt, metrics.jsonl, summary.json, confusion.png, curve.png.
        model: hemf-base, hemf-small or hemf-tiny.
        recipe: a Recipe, a TOML file, the name of one that is shipped, or fields that differ from the paper's recipe:
            `{"epochs": 10, "learning_rate": 1e-3}`. None for the paper's (Table 5).
        variant: a reduced network of the paper's ablation.
        image_size: height and width of the input in pixels, a multiple of 32.
        preprocess: "crop" resizes the shorter side and takes the centre; "squash" resizes both sides.
        teacher: a trained checkpoint of the same classes, for distillation.
        device: "auto", "cpu" or "cuda".
        amp: "float16", "bfloat16" or "off"; None for float16 on CUDA and off on a CPU.
        channels_last: memory layout of weights and images.
        compile: train through torch.compile.
        workers: loader processes; None for none on a CPU and up to 8 on CUDA.
        resume: go on with the run in `output` from its last finished epoch.
        skip_unreadable: leave out images that don't decode, and count them.
        progress: receives each epoch's metrics as an event.

    Raises:
        BadInputError: the images, or a run in `output` of another configuration.
        MissingCapabilityError: a device or precision that isn't there.

    Examples:
        >>> run = hemf_export.train("data", "run", model="hemf-tiny", image_size=32, recipe={"epochs": 1})
        >>> run.checkpoint.name
        'best.pt'
    """
    from hemf_export.files import locks
    from hemf_export.networks import variants
    from hemf_export.train import distributed
    from hemf_export.train.run import Options, check, prepare

    options = Options(
        data=Path(data), output=Path(output), model=model, variant=variants.WHOLE if variant is None else variant,
        image_size=image_size, mode=preprocess, device=device, amp=amp, channels_last=channels_last, compile=compile,
        workers=workers, resume=resume, skip_unreadable=skip_unreadable,
        teacher=None if teacher is None else Path(teacher),
    )  # fmt: skip
    resolved = resolve_recipe(recipe)
    check(options, resolved)
    with distributed.current().once(locks.owned_folder(options.output)):
        prepared = prepare(options, resolved, progress)
        for note in prepared.notes:
            progress.note(note)
        return TrainResult(options.output, prepared.fit())


def resolve_recipe(recipe: Recipe | PathLike | Mapping[str, Any] | None) -> Recipe:
    """Turn what `train` takes as a recipe into one.

    Raises:
        BadInputError, UsageError: no such file or field, or a value that makes no sense.
    """

    from hemf_export.train import recipe_file
    from hemf_export.train.recipe import Recipe

    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return recipe_file.resolve(None, {name: recipe_file.checked("recipe", name, recipe[name]) for name in recipe})
    return recipe_file.resolve(None if recipe is None else os.fspath(recipe), {})
