"""Image files → pixels → network input: one decoder and one description of the preprocessing for all stages.

Training, calibration, verification, benchmarks and servers all use it, so that they see the same tensor.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from hemf_export.files.errors import BadInputError, UsageError, did_you_mean
from hemf_export.images import png, resampling, tiff
from hemf_export.images.grey_levels import BITS, Samples, eight_bits
from hemf_export.images.resampling import Resampling

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
MAX_PIXELS = 100_000_000  # a larger image is treated as a decompression bomb
MAX_RESIZED_PIXELS = 16_000_000  # above this, an image resized before its crop would take too much memory

PixelArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]


def decode(path: Path) -> Image.Image:
    """Read an image file as RGB, rotated by its EXIF orientation. The content tells the format, not the name.

    Greyscale of more than 8 bits is scaled to 8, by the depth that the file states (see `images.tiff` and
    `images.png`); palettes are resolved, alpha is dropped, CMYK is converted as Pillow does. Of a JPEG file with
    further pictures behind the first (MPO: a preview, a gain map, another view) the first is read, as viewers do; of a
    TIFF file with reduced copies or masks the page that is neither. Animations and several pages are refused.

    Raises:
        BadInputError: not a regular file, not an image of `FORMATS`, truncated, several frames, too large, or of
            samples whose grey levels aren't known.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block, a folder would confuse
            raise BadInputError(f"{path} is not a regular file.")
        with open(path, "rb") as file:
            start = file.read(4)
        # Pillow may warn of a large size or an odd header. `catch_warnings` isn't used: it would change the filters of
        # all threads.
        if start in tiff.MAGIC:
            page = tiff.picture(path)
            _check_size(path, page.width, page.height)
            return _to_rgb(page.decode(), min(page.bits, tiff.MOST_BITS))
        with _opened(path, jpeg=start.startswith(b"\xff\xd8\xff")) as image:
            _check_size(path, image.width, image.height)
            if getattr(image, "n_frames", 1) > 1:
                raise BadInputError(f"{path} holds {image.n_frames} frames.", "Save the one that is meant as an image.")  # type: ignore[attr-defined]
            bits = 16 if any("16" in str(tile.args) for tile in getattr(image, "tile", ())) else 8
            if image.format == "PNG":
                image = png.decode(path, image)
            return _to_rgb(ImageOps.exif_transpose(image), bits)
    except BadInputError:
        raise
    except UnidentifiedImageError as error:
        raise BadInputError(
            f"{path} is not an image of a known kind ({', '.join(FORMATS)}).",
            "Save it as one of these, or move it out.",
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the second if warnings are errors
        raise BadInputError(f"{path} is too large: {error}", "Scale it down.") from error
    except Exception as error:
        # Pillow's plugins raise OSError, SyntaxError, TypeError, struct.error and more on damaged files.
        hint = "It is damaged or cut short: copy it again, or move it out."
        raise BadInputError(f"{path} can't be decoded: {error}.", hint) from error


def of_memory(image: Image.Image | NDArray[np.uint8]) -> Image.Image:
    """Convert an image in memory to RGB as `decode` does for a file.

    Args:
        image: a PIL image, or pixels (H, W, 3) RGB or (H, W) grey, uint8.

    Raises:
        UsageError: an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        is_shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not is_shaped or not image.size:
            raise UsageError(
                f"Pixels of shape {image.shape} and type {image.dtype} are no image.",
                "Give (H, W, 3) or (H, W), uint8.",
            )
        image = Image.fromarray(image)
    elif not isinstance(image, Image.Image):
        raise UsageError(f"A {type(image).__name__} is no image.", "Give a path, a PIL image or an array.")
    return _to_rgb(ImageOps.exif_transpose(image), 16 if image.mode.startswith("I") else 8)


def _opened(path: Path, jpeg: bool) -> Image.Image:
    """Open a file in Pillow, JPEG files by the reader that ignores pictures behind the first."""
    if jpeg:
        try:
            return JpegImagePlugin.JpegImageFile(path)
        except SyntaxError as error:
            if "-bit layers" in str(error):
                raise BadInputError(f"{path} is a JPEG file of other than 8 bits a sample.", tiff.HINT) from error
            raise
    return Image.open(path, formats=("PNG", "BMP", "WEBP"))


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadInputError(
            f"{path} is too large: {width} × {height} pixels; at most {MAX_PIXELS:,} are read.", "Scale it down."
        )


def _to_rgb(image: Image.Image, bits: int) -> Image.Image:
    """Convert to RGB, and note the file's bits a sample in `info`."""
    if image.mode.startswith("I"):
        values: Samples = np.asarray(image).astype(np.uint16)
        image = Image.fromarray(eight_bits(values[..., None], [16])[..., 0])
    if image.mode == "P":
        image = image.convert("RGBA")  # transparency given in bytes can't go to RGB directly
    image = image.convert("RGB")
    image.info[BITS] = bits
    return image


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing from an image to the network's input. Saved in every checkpoint, ONNX file and manifest.

    Args:
        size: height and width of the input, in pixels.
        mode: "crop" resizes the shorter side to `resize` and takes the centre crop; "squash" resizes the whole image to
            size × size, whatever its shape (as the paper says).
        resize: the shorter side before the crop, in pixels; unused by "squash".
        mean: per channel (RGB), of values in 0 … 1.
        std: standard deviation per channel, of values in 0 … 1.

    Raises:
        BadInputError: a value out of range.
    """

    size: int = 224
    mode: Literal["crop", "squash"] = "crop"
    resize: int = 256
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.mode not in ("crop", "squash"):
            raise BadInputError(
                f"Unknown preprocessing {self.mode!r}.", did_you_mean(str(self.mode), ("crop", "squash"))
            )
        if not 1 <= self.size <= self.resize:
            raise BadInputError(f"The input's size must be 1 to {self.resize} (the resize), not {self.size}.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not np.isfinite(values).all():
                raise BadInputError(f"{name} must be three finite numbers, not {values!r}.")
        if min(self.std) <= 0:
            raise BadInputError(f"std must be positive, not {self.std!r}.")

    @classmethod
    def for_size(cls, size: int, mode: Literal["crop", "squash"] = "crop") -> Preprocess:
        """Default preprocessing for an input size: the resize keeps the ratio 256 : 224."""
        return cls(size=size, mode=mode, resize=round(size * 256 / 224))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints and manifests."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Read what `to_dict` gave; an unknown key is an error."""
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise BadInputError(f"Unknown key {key!r} in a preprocessing description.", did_you_mean(key, known))
        sequences: dict[str, Any] = {
            key: tuple(float(item) for item in values[key]) for key in ("mean", "std") if key in values
        }
        return cls(**{**values, **sequences})

    def pixels(self, image: Image.Image) -> PixelArray:
        """RGB image → (size, size, 3) uint8: resized by Pillow's antialiased bilinear filter and cropped."""
        (width, height), (left, top), box = self._window(*image.size)
        if box is not None:
            return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box))
        crop = (left, top, left + self.size, top + self.size)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR).crop(crop))

    def resampling(self, height: int, width: int) -> Resampling:
        """Resize and crop of an image of that size as two matrices, (size, height) and (size, width)."""
        scaled, corner, box = self._window(width, height)
        target = (self.size, self.size) if box is not None else (scaled[1], scaled[0])
        matrices = []
        for axis, length in ((1, height), (0, width)):
            if box is None:
                first = corner[axis]
                matrices.append(resampling.matrix(length, scaled[axis], first, first + self.size - 1))
            else:
                matrices.append(resampling.matrix(length, self.size, box=(box[axis], box[axis + 2])))
        return Resampling(matrices[0], matrices[1], resampling.rows_come_first((height, width), target))

    def _window(
        self, width: int, height: int
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[float, float, float, float] | None]:
        """Compute the resized size, the corner of the crop in it, and for extreme shapes a box instead.

        All are (x, y); the box is the part of the image that is resized to the crop directly.
        """
        if self.mode == "squash":
            return (self.size, self.size), (0, 0), None
        short = min(width, height)
        # The longer side is truncated, the corner rounded, as torchvision does and so the authors.
        scaled = (int(self.resize * width / short), int(self.resize * height / short))
        left, top = (round((side - self.size) / 2) for side in scaled)
        if scaled[0] * scaled[1] <= MAX_RESIZED_PIXELS:
            return scaled, (left, top), None
        # An extreme shape: only the crop is made. Pillow rounds a box to float32, which may cost one grey level.
        scale_x, scale_y = width / scaled[0], height / scaled[1]
        right, bottom = ((left + self.size) * scale_x, (top + self.size) * scale_y)
        return scaled, (left, top), (left * scale_x, top * scale_y, min(right, width), min(bottom, height))

    def normalize(self, pixels: PixelArray) -> FloatArray:
        """(..., H, W, 3) uint8 → (..., 3, H, W) float32: (x / 255 - mean) / std."""
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        values = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(np.moveaxis(values, -1, -3), dtype=np.float32)

    def load(self, path: Path) -> PixelArray:
        """Decode a file into its pixels, (size, size, 3) uint8."""
        return self.pixels(decode(path))
