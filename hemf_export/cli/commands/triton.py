"""`hemf-export triton`: engines and ONNX files → a model repository of Triton; and its check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.cli.options import COUNTS, PATH, Command, Count, force_option, images_option, json_option
from hemf_export.files.errors import UsageError


@click.command("triton", cls=Command)
@click.argument("models", nargs=-1, metavar="ENGINE|ONNX…", type=PATH)
@click.option("-o", "--output", type=PATH, help="Model repository to write.")
@click.option("--check", type=PATH, metavar="REPO", help="Check an existing repository, and write nothing.")
@click.option("--name", help="Name of the model, for a single file.  [default: the file's]")
@click.option("--backend", type=click.Choice(["auto", "tensorrt", "onnxruntime", "python"]), default="auto",
              show_default=True, help="python: a model.py runs the ONNX file or TensorRT-RTX engine.")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "gpu"]), help="Where an ONNX file runs.  [default: cpu]")
@click.option(
    "--max-batch",
    type=Count(),
    help="Largest batch that the server forms.  [default: the profile's, or 32 for any batch]",
)
@click.option("--preferred", type=COUNTS, help="Preferred batch sizes.  [default: the profile's optimum]")
@click.option("--queue-delay", "queue_delay_us", type=Count(0), metavar="MICROSECONDS",
              help="How long to wait for a preferred batch.  [default: 1000]")  # fmt: skip
@click.option("--instances", type=Count(), help="Instances that run at the same time.  [default: 1]")
@click.option(
    "--threads", type=Count(most=4096), help="Threads of an instance on the CPU.  [default: the available cores]"
)
@click.option(
    "--cuda-graphs/--no-cuda-graphs", default=None, help="Engines: launch a captured CUDA graph.  [default: on]"
)
@click.option(
    "--warmup/--no-warmup", default=True, show_default=True, help="Run an image before the model reports ready."
)
@images_option("Images for the warm-up.  [default: the engine's golden images, else noise]")
@click.option("--versions", metavar="latest:N|all|1,3", help="Versions that are served.  [default: latest:1]")
@force_option("a model of the same name with all its versions")
@json_option()
def command(
    models: tuple[Path, ...], output: Path | None, check: Path | None, versions: str | None,
    as_json: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Write engines and ONNX files into a Triton model repository, and check it against their manifests.

    An existing model gets a new version beside the old ones. Without a file, -o REPO --name NAME --versions changes
    which versions are served. Ends with 3, and changes nothing, if a configuration doesn't fit its files.
    """
    if check is not None:
        if models or output is not None:
            raise UsageError("--check only looks at what is there.", "Leave out the files and -o.")
        return _check(check, as_json)
    if output is None:
        raise UsageError("Where to? -o REPO.", "Or check what is there: --check REPO.")

    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    if not models:
        if not versions or chosen["name"] is None:
            raise UsageError("Name a file to serve, or say --name and --versions.")
        _print_served(output, hemf_export.serve_versions(output, chosen["name"], versions), as_json)
        return None
    repository = hemf_export.triton_repository(models, output, versions=versions, progress=ConsoleProgress(), **chosen)
    for note in repository.notes:
        console.warn(note)
    if as_json:
        console.print_json(repository.to_dict())
        return None
    for model in repository.models:
        console.facts(f"{model.folder}/{model.version}", model.description)
    for model in repository.models:  # apart from the table, which would fold them
        console.say(f"measure: {model.perf_analyzer}")
        console.say(f"classify: hemf-export triton-client grpc://localhost:8001 IMAGE… --model {model.name}")
    console.next_command("tritonserver --model-repository", output)
    return None


def _check(folder: Path, as_json: bool) -> None:
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    checked = hemf_export.check_repository(folder, progress=ConsoleProgress())
    if as_json:
        console.print_json(checked.to_dict())
        return
    rows = [_row(model) for model in checked.models]
    rows += [(name, "not written by hemf-export: not checked") for name in checked.passed_over]
    console.facts(f"{folder} is right", rows)
    console.next_command("tritonserver --model-repository", folder)


def _print_served(output: Path, model: hemf_export.ServedModel, as_json: bool) -> None:
    from hemf_export.cli import console

    if as_json:
        console.print_json({"repository": str(output), "models": [model.to_dict()]})
        return
    console.facts(str(output / model.name), [_row(model)])


def _row(model: hemf_export.ServedModel) -> tuple[str, str]:
    there, served = (", ".join(map(str, numbers)) for numbers in (model.versions, model.served))
    return model.name, f"{model.backend}, versions {there}, served {served}"
