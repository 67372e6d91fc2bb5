"""Run the README's commands on the sample: `make pictures`. Output goes into the README, pictures into docs/.

The pictures are the page that `verify` writes, by headless Chromium, and heatmaps of one image of each class.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PROJECT = Path(__file__).parent.parent
README = PROJECT / "README.md"
SAMPLE = Path("examples", "blood_cells")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PAGE_SIZE = (1000, 1000)  # size of the window in pixels; the picture shows the top of the page
WIDTH = 800  # of a picture, in pixels
LARGEST_BYTES = 250_000
# No network requests in the background, and no privileges needed in a container.
BROWSER_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def main(folder: Path) -> int:
    """Run the commands in `folder`, which is emptied first; return the exit code."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"No browser is installed: one of {', '.join(BROWSERS)} is needed.")
        return 4
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "examples").symlink_to(PROJECT / "examples", target_is_directory=True)
    README.write_text(with_output(README.read_text(encoding="utf-8"), folder), encoding="utf-8")
    save(screenshot(browser, folder / "run" / "verify.html"), "verify-page.png")
    save(heatmaps(folder), "heatmap.png")
    return 0


def with_output(text: str, folder: Path) -> str:
    """Return the README with the output of each command with a prompt inserted below it."""

    def filled(block: re.Match[str]) -> str:
        commands = re.findall(r"^\$ .+$", block[0], re.MULTILINE)
        lines = [line for command in commands for line in (command, *output(command.removeprefix("$ "), folder))]
        return "\n".join(("```console", *lines, "```"))

    return re.sub(r"^```console\n\$ .*?^```", filled, text, flags=re.MULTILINE | re.DOTALL)


def output(command: str, folder: Path) -> list[str]:
    """Run a command and return the lines of its result, without progress and the proposed next command."""
    print(f"$ {command}", flush=True)
    words = [sys.executable, "-m", "hemf_export", *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [line.rstrip() for line in done.stdout.splitlines() if line.strip()]


def heatmaps(folder: Path) -> Image.Image:
    """Return a picture of one image per class, one below another: image, heatmap and overlay."""
    classes = sorted(path for path in (folder / SAMPLE / "test").iterdir() if path.is_dir())
    images = [sorted(place.iterdir())[0].relative_to(folder) for place in classes]
    output(f"hemf-export explain run/best.pt {shlex.join(map(str, images))} -o heatmaps", folder)
    panels = [Image.open(folder / "heatmaps" / f"{path.stem}.png").convert("RGB") for path in images]
    whole = Image.new("RGB", (max(panel.width for panel in panels), sum(panel.height for panel in panels)), "white")
    top = 0
    for panel in panels:
        whole.paste(panel, (0, top))
        top += panel.height
    return whole


def screenshot(browser: str, page: Path) -> Image.Image:
    """Return the top of a page, as shown in a window of `PAGE_SIZE`."""
    width, height = PAGE_SIZE
    with tempfile.TemporaryDirectory() as profile:
        picture = Path(profile, "page.png")
        size = f"--window-size={width},{height}"
        places = f"--user-data-dir={profile}", f"--screenshot={picture}"
        words = [browser, *BROWSER_OPTIONS, *places, size, page.as_uri()]
        subprocess.run(words, stderr=subprocess.DEVNULL, check=True)
        return Image.open(picture).convert("RGB")


def save(picture: Image.Image, name: str) -> None:
    """Write a picture for docs/, reduced to a palette."""
    path = PROJECT / "docs" / name
    picture.thumbnail((WIDTH, picture.height), Image.Resampling.LANCZOS)
    picture.quantize(palette=picture.quantize(), dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    assert path.stat().st_size < LARGEST_BYTES, f"{path} is too large for a README"
    print(f"{path.relative_to(PROJECT)}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "readme-run").resolve()))
