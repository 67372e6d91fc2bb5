"""A model on disk: a checkpoint, an ONNX file or an engine, opened once.

    from hemf_export.models.model_file import ModelFile
    file = ModelFile.open("best.fp16.onnx")
    print(file.kind, file.sha256, file.description.classes)
    print(file.predictor().predict(["a.png"]))

What a file is, its content says: its name is believed of damaged bytes alone. Opening a file runs nothing and reads its
first bytes; description, manifest and hash are read when they are asked for, and kept.
"""

from __future__ import annotations

import dataclasses
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, Self, cast

from hemf_export.checkpoints import checkpoint_container
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.engines import golden, plan_header
from hemf_export.engines.golden import Golden
from hemf_export.files import artifacts, names
from hemf_export.files.errors import BadInputError, MissingCapabilityError
from hemf_export.files.model_output import ModelOutput
from hemf_export.images import folders
from hemf_export.images.model_input import ModelInput
from hemf_export.models.description import Description, Precision

if TYPE_CHECKING:
    from hemf_export.checkpoints.checkpoint import Checkpoint
    from hemf_export.engines.runner import EngineRunner
    from hemf_export.models.predictor import Predictor
    from hemf_export.models.runners import Runner, TorchRunner

Kind = Literal["checkpoint", "onnx", "engine"]
# What files are usually called: all that tells what damaged ones were.
_NAMES: dict[Kind, tuple[str, ...]] = {
    "checkpoint": (".pt", ".pth", ".ckpt", ".safetensors", ".bin"),
    "onnx": (".onnx",),
    "engine": (".engine", ".plan", ".trt"),
}
_MISSING: dict[Kind, tuple[str, str]] = {
    "checkpoint": ("checkpoint", "Is the path right?"),
    "onnx": ("ONNX file", "Make one: `export_onnx(CKPT)`."),
    "engine": ("engine", "Build one: `build_engine(MODEL.onnx, precision='fp16')`."),
}
_TITLES: dict[Kind, str] = {"checkpoint": "a checkpoint", "onnx": "an ONNX file", "engine": "an engine"}
# Where a file is of another kind than is needed.
_INSTEAD: dict[Kind, str | None] = {
    "checkpoint": "Name the checkpoint that it was made from.",
    "onnx": "Make one of a checkpoint: `export_onnx(CKPT)`.",
    "engine": None,
}
_MODEL_HINT = "The model's file comes first, then the images."
# First bytes → what such a file is, and what helps.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG image", _MODEL_HINT),
    (b"\x89PNG", "a PNG image", _MODEL_HINT),
    (b"GIF8", "a GIF image", _MODEL_HINT),
    (b"II*\0", "a TIFF image", _MODEL_HINT),
    (b"MM\0*", "a TIFF image", _MODEL_HINT),
    (b"\x28\xb5\x2f\xfd", "an archive (zstd), perhaps a bundle", "Name a model file that is in it."),
    (b"\x1f\x8b", "an archive (gzip)", "Unpack it, and name the model file that is in it."),
    (b"\x89HDF", "an HDF5 file, perhaps of Keras", "Export it to ONNX, for instance with tf2onnx."),
    (b"%PDF", "a PDF document", "A checkpoint, an ONNX file or an engine is needed."),
)
# Fields of onnx.ModelProto: number → wire type.
_VARINT, _BYTES = 0, 2
_ONNX_FIELDS = {1: _VARINT, 2: _BYTES, 3: _BYTES, 4: _BYTES, 5: _VARINT, 6: _BYTES, 7: _BYTES, 8: _BYTES, 14: _BYTES,
                20: _BYTES, 25: _BYTES, 26: _BYTES}  # fmt: skip
_ONNX_VERSION, _ONNX_GRAPH = 1, 7


@dataclass(frozen=True)
class ModelFile(ABC):
    """What a model file of any kind has; `open` gives one.

    Args:
        path: of the file.
        given_classes: names for a checkpoint that has none; those of another file must agree.
        reading: how a checkpoint is read; the image size of another file must agree, and it has one set of weights.
    """

    path: Path
    given_classes: tuple[str, ...] | None = None
    reading: Reading = PLAIN

    kind: ClassVar[Kind]

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        reading: Reading = PLAIN,
        hint: str | None = None,
    ) -> Self:
        """Look at what a file is. `ModelFile.open` takes any kind, `OnnxFile.open` an ONNX file alone, and so on.

        Args:
            path: of the file.
            classes: names for a checkpoint that has none; those of another file must agree.
            reading: how a checkpoint is read.
            hint: what helps where the file is of another kind than is wanted.

        Raises:
            BadInputError: no file, no model file, or one of another kind; the message says which.
        """
        path = Path(path)
        wanted: Kind | None = getattr(cls, "kind", None)
        if wanted is not None and not path.is_file():
            raise _missing(path, wanted)
        kind = kind_of(path)
        if wanted is not None and kind != wanted:
            raise BadInputError(f"{path} is {_TITLES[kind]}, not {_TITLES[wanted]}.", hint or _INSTEAD[wanted])
        return cast(Self, _class_of(kind)(path, None if classes is None else tuple(classes), reading))

    @classmethod
    def all_in(cls, folder: Path) -> list[Self]:
        """Open the files of this kind in a folder, damaged ones too, by name; hidden ones don't count."""
        wanted: Kind | None = getattr(cls, "kind", None)
        files = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            try:
                kind = kind_of(path)
            except BadInputError:
                continue
            if wanted in (None, kind):
                files.append(cast(Self, _class_of(kind)(path)))
        return files

    def read_as(self, *, classes: Sequence[str] | None = None, reading: Reading = PLAIN) -> Self:
        """The file, read with these class names and in this way; see `open`. What is known of its bytes is kept."""
        return self._with(given_classes=None if classes is None else tuple(classes), reading=reading)

    @property
    def title(self) -> str:
        """The kind in words, with its article."""
        return _TITLES[self.kind]

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return self.path.name

    @property
    def stem(self) -> str:
        """The file's name without the endings that say what it is; see `stem`."""
        return stem(self.path)

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file's bytes, as they were when it was first asked for."""
        return artifacts.sha256(self.path)

    @property
    def content_sha256(self) -> str:
        """Hash of the file, and of the weights that it keeps in other files.

        Raises:
            BadInputError: such a file is missing, or may not be read.
        """
        return self.sha256

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """What the manifest beside the file says; None where there is none.

        Raises:
            BadInputError: it can't be read, or describes another file.
        """
        return artifacts.read_manifest(self.path, lambda: self.sha256)

    @cached_property
    @abstractmethod
    def description(self) -> Description:
        """The model's name, classes, preprocessing, precision, input and output.

        Raises:
            BadInputError: the file is damaged, doesn't say them, or has other classes than were given.
        """

    @property
    def stored_description(self) -> Description | None:
        """The description that an exported file carries; None where it has none, and for a checkpoint."""
        return None

    @property
    def precision(self) -> Precision:
        """The precision that the description states."""
        return self.description.precision

    @property
    def input(self) -> ModelInput:
        """What the file takes of an image."""
        return self.description.input

    @property
    def output(self) -> ModelOutput:
        """What the file gives of an image."""
        return self.description.output

    def golden(self) -> Golden | None:
        """The golden images that lie beside the file; None where its manifest names none.

        Raises:
            BadInputError: they are missing or were changed.
        """
        return golden.read(self.path, self.manifest or {})

    @abstractmethod
    def runner(self) -> Runner:
        """What computes the file's scores on this machine."""

    @abstractmethod
    def predictor(self, *, for_proof: bool = False) -> Predictor:
        """Make the model ready to classify images; an engine is tried on its golden images first.

        Args:
            for_proof: as a proof needs it. Float16 in an ONNX file is emulated: a CPU would compute it in float32 and
                hide what it does to the logits. Weights that are not finite are the proof's to find, not refused.

        Raises:
            BadInputError: anything wrong with the file, or a manifest beside it that disagrees.
            CheckFailedError: an engine that doesn't compute what its graph does.
            MissingCapabilityError: an engine that can't run here.
        """

    def _with(self, **changes: Any) -> Self:
        """A copy with other fields, which needs no second look at the file's bytes."""
        changed = dataclasses.replace(self, **changes)
        fields = {field.name for field in dataclasses.fields(self)}
        vars(changed).update(
            {name: value for name, value in vars(self).items() if name not in {*fields, "description"}}
        )
        return changed

    def _require_agreement(self, description: Description) -> None:
        """Raise BadInputError where an exported file is asked for other classes, weights or images than its own."""
        given, own = self.given_classes, description.classes
        if given is not None and not names.same(given, own):
            raise BadInputError(
                f"{self.path} has the classes {', '.join(own)}, not {', '.join(given)}.", "Leave out `classes`."
            )
        if self.reading.weights is not None:
            raise BadInputError(f"{self.path} has one set of weights.", "`weights` is for a checkpoint: leave it out.")
        if self.reading.image_size not in (None, description.preprocess.size):
            raise BadInputError(
                f"{self.path} takes images of {description.preprocess.size} pixels, not {self.reading.image_size}.",
                "Leave out `image_size`.",
            )


class CheckpointFile(ModelFile):
    """A checkpoint: ours, the authors', or a state dict of another trainer."""

    kind: ClassVar[Kind] = "checkpoint"

    def load(self) -> Checkpoint:
        """Read the weights, which are not kept here.

        Raises:
            BadInputError: anything wrong with the file; see `checkpoints.checkpoint_files` for what is refused.
        """
        from hemf_export.checkpoints import checkpoint

        saved = checkpoint.load(self.path, classes=self.given_classes, reading=self.reading)
        vars(self).setdefault("sha256", saved.sha256)
        vars(self).setdefault("description", self._describe(saved))
        return saved

    @cached_property
    def description(self) -> Description:
        """The description of its float32 network."""
        return self._describe(self.load())

    def runner(self) -> TorchRunner:
        """The network in PyTorch on the CPU."""
        return self._runner(self.load())

    def predictor(self, *, for_proof: bool = False) -> Predictor:
        """The network in PyTorch on the CPU, ready to classify; see `ModelFile.predictor`."""
        from hemf_export.models.predictor import Predictor

        saved = self.load()
        if not for_proof:
            saved.check_finite()
        return Predictor(self.description, self._runner(saved), notes=saved.notes)

    def _runner(self, saved: Checkpoint) -> TorchRunner:
        from hemf_export.models.runners import TorchRunner

        return TorchRunner(saved.model(), f"PyTorch, {self.name}")

    def _describe(self, saved: Checkpoint) -> Description:
        return Description(
            name=saved.config.name, classes=saved.classes, preprocess=saved.preprocess, precision="fp32",
            input_type="float32", batch=None, checkpoint_sha256=saved.sha256, versions={}, reading=self.reading,
        )  # fmt: skip


class EngineFile(ModelFile):
    """A TensorRT engine with its manifest. A plan is executable code: nothing of it is run before its preflight."""

    kind: ClassVar[Kind] = "engine"

    @cached_property
    def description(self) -> Description:
        """The description of the graph that the engine was built from, by the engine's manifest."""
        if self.manifest is None:
            raise BadInputError(
                f"{self.path} has no manifest: nothing tells its classes and preprocessing.",
                "Take the manifest along with it, or build it again: `build_engine()`.",
            )
        description = Description.from_manifest(self.path, self.manifest)
        self._require_agreement(description)
        return description

    @property
    def stored_description(self) -> Description | None:
        """The description in its manifest; None without a manifest.

        Raises:
            BadInputError: the manifest is damaged, or describes another file.
        """
        return None if self.manifest is None else self.description

    def runner(self, *, cuda_graphs: bool = True, contexts: int = 4, trust: bool = False) -> EngineRunner:
        """Load the engine on this machine's first GPU; see `engines.load`.

        Raises:
            BadInputError: not the file that its manifest describes, or not an engine.
            MissingCapabilityError: it is for another TensorRT or GPU, or there is none.
        """
        from hemf_export import engines

        return engines.load(self.path, trust=trust, cuda_graphs=cuda_graphs, contexts=contexts)

    def predictor(self, *, for_proof: bool = False) -> Predictor:
        """The engine on this machine's first GPU, tried on its golden images; see `ModelFile.predictor`."""
        from hemf_export.models import self_test
        from hemf_export.models.predictor import Predictor

        if not artifacts.manifest_path(self.path).is_file():
            _ = self.description  # says that there is none
        try:
            runner = self.runner()
        except MissingCapabilityError as error:
            raise MissingCapabilityError(
                error.message, f"{error.hint or ''} The ONNX file that it was built from runs on a CPU.".strip()
            ) from error
        description, sizes, notes = self.description, runner.interface, []
        if self_test.require(runner, self) is None:
            notes.append(f"{self.name} has no golden images: nothing shows that it computes what its graph does.")
        fixed = sizes.smallest if sizes.smallest == sizes.largest else None
        return Predictor(description, runner, fixed_batch=fixed, filled=sizes.filled, notes=(*notes, *runner.notes))


def kind_of(path: Path) -> Kind:
    """Tell what a model file is by its content.

    Where that says nothing, the name is believed: whoever reads the file will find it damaged, and say what is wrong.

    Raises:
        BadInputError: no file, or no model; the message says what it is instead.
    """
    if path.is_dir():
        raise BadInputError(f"{path} is a folder, not a model.", "Name a checkpoint, an ONNX file or an engine.")
    if not path.is_file():
        raise _missing(path, named(path))
    try:
        if (kind := _kind_of_content(path)) is not None:
            return kind
        with open(path, "rb") as file:
            start = file.read(checkpoint_container.START_BYTES)
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    what, hint = _another(path, start)
    if what is None and (meant := named(path)) is not None:
        return meant
    raise BadInputError(
        f"{path} is not a checkpoint, an ONNX file or an engine" + (f": it is {what}." if what else "."), hint
    )


def named(path: Path) -> Kind | None:
    """Tell by its name what a file was meant to be."""
    name = path.name.lower().removesuffix(".tar")
    return next((kind for kind, endings in _NAMES.items() if name.endswith(endings)), None)


def stem(path: Path) -> str:
    """Strip the endings that say what a model file is from its name: `best.pth.tar` and `BEST.ONNX` → best, BEST."""
    known = "|".join(re.escape(ending) for endings in _NAMES.values() for ending in endings)
    return re.sub(rf"({known})?(\.tar)?$", "", path.name, count=1, flags=re.IGNORECASE) or path.name


def _class_of(kind: Kind) -> type[ModelFile]:
    if kind == "onnx":
        from hemf_export.models.onnx_file import OnnxFile

        return OnnxFile
    return CheckpointFile if kind == "checkpoint" else EngineFile


def _missing(path: Path, wanted: Kind | None) -> BadInputError:
    if wanted is None:
        return BadInputError(f"No file at {path}.", "A checkpoint, an ONNX file or an engine is needed.")
    title, way_out = _MISSING[wanted]
    return BadInputError(f"No {title} at {path}.", way_out)


def _kind_of_content(path: Path) -> Kind | None:
    """Tell the kind by a file's content; None where that is no model."""
    with open(path, "rb") as file:
        start = file.read(checkpoint_container.START_BYTES)
        if plan_header.flavour(start) is not None:
            return "engine"
        names = checkpoint_container.members(path) if start[:2] == b"PK" else ()
        if checkpoint_container.container_of(start, names) is not None:
            return "checkpoint"
        return "onnx" if _has_graph(file) else None


def _another(path: Path, start: bytes) -> tuple[str | None, str | None]:
    """Tell what else a file seems to be, and what helps."""
    for magic, what, hint in _OTHERS:
        if start.startswith(magic):
            return what, hint
    if not start and named(path) is None:
        return "empty", None
    if start[:2] == b"BM" and start[6:10] == b"\0\0\0\0":
        return "a BMP image", _MODEL_HINT
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP image", _MODEL_HINT
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite file", "Export the model to ONNX, for instance with tf2onnx."
    if start[:2] == b"PK":
        return "a zip archive without a state dict", "Unpack it, and name the model file that is in it."
    if start.lstrip()[:1] in (b"{", b"[") and path.suffix.lower() == ".json":
        described = path.with_suffix("")
        here = f": {described.name}" if described.is_file() else ""
        return "a JSON file, perhaps a manifest", f"Name the file that it describes{here}."
    return None, _MODEL_HINT if path.suffix.lower() in folders.EXTENSIONS else None


def _has_graph(file: BinaryIO) -> bool:
    """Whether a file is a protobuf message with the fields of ONNX's ModelProto, a graph among them.

    One that is cut short within its graph is known by the version before it.
    """
    size = file.seek(0, 2)
    file.seek(0)
    seen: set[int] = set()
    while file.tell() < size:
        tag, value = _varint(file), _varint(file)
        if tag is None or value is None or _ONNX_FIELDS.get(tag >> 3) != tag & 7:
            break
        seen.add(tag >> 3)
        if tag & 7 == _BYTES and file.seek(min(value, size + 1), 1) > size:
            break
    whole = file.tell() == size
    return _ONNX_GRAPH in seen and (whole or _ONNX_VERSION in seen)


def _varint(file: BinaryIO) -> int | None:
    """A protobuf varint of at most ten bytes; None where there is none."""
    value = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << 7 * place
        if byte[0] < 0x80:
            return value
    return None
