"""`hemf-export triton`: engines and ONNX files → a model repository of Triton; and its check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf_export.cli.options import COUNTS, PATH, Command, Count, force_option, images_option, json_option
from hemf_export.files.errors import UsageError

if TYPE_CHECKING:
    from hemf_export.triton.repository import CheckedModel, WrittenModel


@click.command("triton", cls=Command)
@click.argument("models", nargs=-1, metavar="ENGINE|ONNX…", type=PATH)
@click.option("-o", "--output", type=PATH, help="The model repository.")
@click.option("--check", type=PATH, metavar="REPO", help="Check what is there, write nothing.")
@click.option("--name", help="Of the model, where one file is given.  [default: the file's]")
@click.option("--backend", type=click.Choice(["auto", "tensorrt", "onnxruntime", "python"]), default="auto",
              show_default=True, help="python: a model.py runs the ONNX file or TensorRT-RTX engine.")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "gpu"]), help="Where an ONNX file runs.  [default: cpu]")
@click.option("--max-batch", type=Count(), help="Most images put together.  [default: the profile's; any batch: 32]")
@click.option("--preferred", type=COUNTS, help="Batch sizes to wait for.  [default: the profile's optimum]")
@click.option("--queue-delay", "queue_delay_us", type=Count(0), metavar="MICROSECONDS",
              help="How long to wait for them.  [default: 1000]")  # fmt: skip
@click.option("--instances", type=Count(), help="Copies that run at the same time.  [default: 1]")
@click.option("--threads", type=Count(most=4096), help="Of a copy on a CPU.  [default: the cores that may be used]")
@click.option("--cuda-graphs/--no-cuda-graphs", default=None, help="Launch captured graphs (engines).  [default: on]")
@click.option("--warmup/--no-warmup", default=True, show_default=True, help="Run an image before the model is ready.")
@images_option("Take it from here.  [default: the engine's golden images, else noise]")
@click.option("--versions", metavar="latest:N|all|1,3", help="Which are served.  [default: latest:1]")
@force_option("a model of that name with all its versions")
@json_option()
def command(
    models: tuple[Path, ...], output: Path | None, check: Path | None, versions: str | None,
    as_json: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Write engines and ONNX files into a model repository of Triton, and check it against their manifests.

    A model that is there already gets a new version beside the old ones. Without a file, -o REPO --name NAME --versions
    changes which versions are served. Ends with 3, and changes nothing, where a configuration doesn't fit its files.
    """
    from hemf_export.triton.options import Options, VersionPolicy

    if check is not None:
        if models or output is not None:
            raise UsageError("--check only looks at what is there.", "Leave out the files and -o.")
        return _check(check, as_json)
    if output is None:
        raise UsageError("Where to? -o REPO.", "Or check what is there: --check REPO.")
    policy = VersionPolicy.parse(versions) if versions else None
    options = Options(**chosen, versions=policy)

    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.triton import repository

    if not models:
        if policy is None or options.name is None:
            raise UsageError("Name a file to serve, or say --name and --versions.")
        _print_served(output, repository.serve(output, options.name, policy), as_json)
        return None
    done = repository.write(models, output, options, ConsoleProgress())
    for note in done.notes:
        console.warn(note)
    if as_json:
        values = {"repository": str(output), "models": [_values(made) for made in done.models]}
        console.print_json(values)
        return None
    for made in done.models:
        console.facts(f"{made.folder}/{made.version}", _rows(made))
    for made in done.models:  # apart from the table, which would fold them
        console.say(f"measure: {made.perf_analyzer}")
        console.say(f"classify: hemf-export triton-client grpc://localhost:8001 IMAGE… --model {made.name}")
    console.next_command("tritonserver --model-repository", output)
    return None


def _check(folder: Path, as_json: bool) -> None:
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.triton import repository

    with ConsoleProgress().task(f"Checking {folder}"):
        found = repository.check(folder)
    if as_json:
        values = {
            "repository": str(folder),
            "models": [vars(model) for model in found.models],
            "passed_over": list(found.passed_over),
        }
        console.print_json(values)
        return
    rows = [_row(model) for model in found.models]
    rows += [(name, "not written by hemf-export: not checked") for name in found.passed_over]
    console.facts(f"{folder} is right", rows)
    console.next_command("tritonserver --model-repository", folder)


def _print_served(output: Path, model: CheckedModel, as_json: bool) -> None:
    from hemf_export.cli import console

    if as_json:
        console.print_json({"repository": str(output), "models": [vars(model)]})
        return
    console.facts(str(output / model.name), [_row(model)])


def _row(model: CheckedModel) -> tuple[str, str]:
    there, served = (", ".join(map(str, numbers)) for numbers in (model.versions, model.served))
    return model.name, f"{model.backend}, versions {there}, served {served}"


def _values(made: WrittenModel) -> dict[str, Any]:
    config = made.config
    return {
        "name": made.name,
        "folder": str(made.folder),
        "version": made.version,
        "added": made.added,
        "served": list(made.served),
        "backend": made.backend,
        "max_batch_size": config.max_batch_size,
        "preferred": list(config.dynamic_batching.preferred_batch_size),
        "queue_delay_us": config.dynamic_batching.max_queue_delay_microseconds,
        "sha256": made.model.sha256,
        "warmed_by": made.warmed_by,
        "notes": list(made.notes),
        "perf_analyzer": made.perf_analyzer,
    }


def _rows(made: WrittenModel) -> list[tuple[str, str]]:
    config, model = made.config, made.model
    kind = "GPU" if config.instance_group[0].kind == 1 else "CPU"
    count = config.instance_group[0].count
    sizes = ", ".join(map(str, config.dynamic_batching.preferred_batch_size))
    delay = config.dynamic_batching.max_queue_delay_microseconds
    batching = f"up to {config.max_batch_size}" if config.max_batch_size else f"fixed, {model.fixed_batch} in a request"
    if config.HasField("dynamic_batching"):
        batching += f", put together for {delay:,} µs" + (f", preferred {sizes}" if sizes else "")
    return [
        ("model", f"{made.name}, version {made.version}, of {model.path.name} ({model.description.precision})"),
        ("served", f"version {', '.join(map(str, made.served)) or 'none'}"),
        ("backend", f"{made.backend}, {count} instance{'s' * (count != 1)} on the {kind}"),
        ("input", f"{model.input}" + (", raw pixels" if model.description.input_type == "uint8" else "")),
        ("batches", batching),
        ("warm-up", made.warmed_by or "none"),
        ("SHA-256", model.sha256),
    ]
