"""`hemf-export bundle`: engines and ONNX files with their proofs → one archive for the target."""

from __future__ import annotations

from pathlib import Path

import click

import hemf_export
from hemf_export.cli.options import (
    PATH,
    Command,
    factory_option,
    force_option,
    golden_option,
    images_option,
    json_option,
)


@click.command("bundle", cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="ENGINE|ONNX…", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="FILE.tar.zst")
@click.option("--verified", type=PATH, metavar="VERIFY.json", help="Output of verify --json.")
@click.option("--bench", type=PATH, metavar="BENCH.json", help="Output of bench -o.")
@images_option("Golden images for ONNX files.  [default: those of the engines, else seeded noise]")
@golden_option("Number of golden images of each model; 0 for none.")
@click.option("--use", type=PATH, metavar="FILE.md", help="Intended use, as text for the model card.")
@click.option("--checkpoint", type=PATH, metavar="CKPT",
              help="Checkpoint whose training the card describes.  [default: found beside the files]")  # fmt: skip
@factory_option
@click.option("--triton/--no-triton", default=True, show_default=True, help="Include a model repository for Triton.")
@click.option("--name", metavar="NAME", help="Name of the model in Triton.  [default: the file's]")
@click.option("--cpp/--no-cpp", default=True, show_default=True, help="Include the C++ library and its example.")
@force_option("an existing bundle")
@json_option()
def command(
    files: tuple[Path, ...], output: Path, verified: Path | None, bench: Path | None, images: Path | None, golden: int,
    use: Path | None, checkpoint: Path | None, factory: str | None, triton: bool, name: str | None, cpp: bool,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Pack model files of one checkpoint into FILE.tar.zst, with everything that proves and serves them.

    A bundle holds files and manifests, reports, golden images with their logits, labels, a model card, a repository
    for Triton, the C++ sources, and the SHA-256 of each file. The same inputs give the same bytes. `tar --zstd -xf`
    unpacks it, and `hemf-export self-test FILE.tar.zst` tests it on its target.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.pages import census_text

    packed = hemf_export.bundle(
        files, output, verification=verified, benchmark=bench, images=images, golden=golden, use=use,
        checkpoint=checkpoint, factory=factory, triton=triton, name=name, cpp=cpp, force=force,
        progress=ConsoleProgress(),
    )  # fmt: skip
    for note in packed.notes:
        console.warn(note)
    size = packed.path.stat().st_size
    about, contents = packed.manifest, packed.contents_sha256
    if as_json:
        values = {
            "file": str(packed.path), "size_bytes": size, "sha256": packed.sha256, "contents_sha256": contents,
            "files": packed.files, **about, "notes": list(packed.notes),
        }  # fmt: skip
        console.print_json(values)
        return
    shown = [
        (
            "models" if not number else "",
            f"{model['file']} ({model['precision']}, {model['golden_images']} golden images"
            + (f"; {census_text.line(model['census'])})" if "census" in model else ")"),
        )
        for number, model in enumerate(about["models"])
    ]
    rows = [
        *shown,
        ("reports", ", ".join(what for what in ("verified", "timed") if about[what]) or "none"),
        ("Triton", ", ".join(about["triton"]) or "none"),
        ("C++ sources", "yes" if cpp else "no"),
        ("size", f"{console.size(size)}, {packed.files} files"),
        ("SHA-256", packed.sha256),
        ("of the contents", f"{contents} (timings left out)"),
    ]
    console.facts(str(packed.path), rows)
    console.next_command("hemf-export self-test", packed.path)
