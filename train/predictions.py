"""Logits of a finished run on the images that it is judged on, kept to compare runs image by image.

The file is an uncompressed NumPy archive: for each split `SPLIT.logits` (images, classes) and `SPLIT.names_sha256`, a
hash of the images' names, and `checkpoint_sha256`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemf_export.files import artifacts
from hemf_export.images.folders import LabelledImages


def write(
    path: Path, checkpoint_sha256: str, splits: Mapping[str, LabelledImages], logits: Mapping[str, NDArray[np.float32]]
) -> None:  # fmt: skip
    """Write a checkpoint's logits of some splits, atomically.

    Args:
        path: the file.
        checkpoint_sha256: hash of the checkpoint that computed them.
        splits: the images by split.
        logits: their logits (images, classes) by split.
    """
    arrays: dict[str, NDArray[np.generic]] = {"checkpoint_sha256": np.array(checkpoint_sha256)}
    for name, values in logits.items():
        arrays[f"{name}.logits"] = values
        arrays[f"{name}.names_sha256"] = np.array(splits[name].to_dict()["names_sha256"])
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    artifacts.write_bytes(path, content.getvalue())


def read(path: Path, checkpoint_sha256: str, split: str, images: LabelledImages) -> NDArray[np.float32] | None:
    """Read the logits (images, classes) of a split.

    Returns:
        The logits; None where there is no such file, or it is damaged, of another checkpoint or of other images.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            own = str(content["checkpoint_sha256"]) == checkpoint_sha256
            same = own and str(content[f"{split}.names_sha256"]) == images.to_dict()["names_sha256"]
            logits = np.asarray(content[f"{split}.logits"], np.float32) if same else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return logits if logits is not None and logits.shape == (len(images), len(images.classes)) else None
