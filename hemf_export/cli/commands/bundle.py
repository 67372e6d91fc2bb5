"""`hemf-export bundle`: engines and ONNX files with their proofs → one archive for the target."""

from __future__ import annotations

from pathlib import Path

import click

from hemf_export.cli.options import PATH, Command, force_option, golden_option, images_option, json_option


@click.command("bundle", cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="ENGINE|ONNX…", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="FILE.tar.zst")
@click.option("--verified", type=PATH, metavar="VERIFY.json", help="What verify --json printed.")
@click.option("--bench", type=PATH, metavar="BENCH.json", help="What bench -o wrote.")
@images_option("Golden images for ONNX files.  [default: those of the engines, else seeded noise]")
@golden_option("How many; 0 for none, of engines too.")
@click.option("--use", type=PATH, metavar="FILE.md", help="What it is for: for the model card.")
@click.option("--checkpoint", type=PATH, metavar="CKPT",
              help="Whose training the model card tells of.  [default: looked for beside the files]")  # fmt: skip
@click.option("--triton/--no-triton", default=True, show_default=True, help="With a repository for Triton.")
@click.option("--name", metavar="NAME", help="Of the model there.  [default: the file's]")
@click.option("--cpp/--no-cpp", default=True, show_default=True, help="With the C++ library and its example.")
@force_option("a bundle that is there")
@json_option()
def command(
    files: tuple[Path, ...], output: Path, verified: Path | None, bench: Path | None, images: Path | None, golden: int,
    use: Path | None, checkpoint: Path | None, triton: bool, name: str | None, cpp: bool, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Pack model files of one checkpoint into FILE.tar.zst, with all that proves and serves them.

    In it: files and manifests, reports, golden images and logits, labels, a model card, Triton's repository, the C++
    sources, and the SHA-256 of each file. The same inputs give the same bytes. `tar --zstd -xf` unpacks it, and
    `hemf-export self-test FILE.tar.zst` tries it on its target.
    """
    from hemf_export.bundles import making, model_card
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.pages import census_text

    request = making.Request(
        files=files, output=output, verified=verified, bench=bench, images=images, golden=golden,
        use=None if use is None else model_card.read_use(use), checkpoint=checkpoint, triton=triton,
        served_as=name, cpp=cpp, force=force,
    )  # fmt: skip
    made = making.make(request, ConsoleProgress())
    for note in made.notes:
        console.warn(note)
    size = made.path.stat().st_size
    about, contents = made.index.about, made.index.contents_sha256
    if as_json:
        values = {
            "file": str(made.path), "size_bytes": size, "sha256": made.sha256, "contents_sha256": contents,
            "files": len(made.index.members) + 2, **about, "notes": list(made.notes),
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
        ("size", f"{console.size(size)}, {len(made.index.members) + 2} files"),
        ("SHA-256", made.sha256),
        ("of the contents", f"{contents} (timings left out)"),
    ]
    console.facts(str(made.path), rows)
    console.next_command("hemf-export self-test", made.path)
