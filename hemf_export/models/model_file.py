"""A model on disk: a checkpoint, an ONNX file or an engine, opened once.

    from hemf_export.models.model_file import ModelFile
    file = ModelFile.open("best.fp16.onnx")
    print(file.kind, file.sha256, file.description.classes)
    print(file.predictor().predict(["a.png"]))

Opening a file reads its first bytes and runs nothing; description, manifest and hash are read on first use, and cached.
"""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import onnx

from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.engines import golden
from hemf_export.engines.golden import Golden, SelfTest
from hemf_export.files import artifacts, names
from hemf_export.files.errors import BadInputError, MissingCapabilityError
from hemf_export.models import external_data, file_kinds, onnx_model
from hemf_export.models.description import Description
from hemf_export.models.file_kinds import Kind

if TYPE_CHECKING:
    import onnx_ir as ir

    from hemf_export.checkpoints.checkpoint import Checkpoint
    from hemf_export.engines.runner import EngineRunner
    from hemf_export.models.predictor import Predictor
    from hemf_export.models.runners import OnnxRunner, Runner, TorchRunner


@dataclass(frozen=True)
class ModelFile(ABC):
    """A model file of any kind; made by `open`.

    Args:
        path: the file.
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
        """Open a file. `ModelFile.open` takes any kind, `OnnxFile.open` an ONNX file alone, and so on.

        Args:
            path: the file.
            classes: names for a checkpoint that has none; those of another file must agree.
            reading: how a checkpoint is read.
            hint: hint of the error where the file is of another kind.

        Raises:
            BadInputError: no file, no model file, or one of another kind; the message says which.
        """
        path = Path(path)
        wanted: Kind | None = getattr(cls, "kind", None)
        if wanted is not None and not path.is_file():
            raise file_kinds.missing(path, wanted)
        kind = file_kinds.kind_of(path)
        if wanted is not None and kind != wanted:
            raise BadInputError(
                f"{path} is {file_kinds.TITLES[kind]}, not {file_kinds.TITLES[wanted]}.",
                hint or file_kinds.INSTEAD[wanted],
            )
        return cast(Self, _class_of(kind)(path, None if classes is None else tuple(classes), reading))

    @classmethod
    def all_in(cls, folder: Path) -> list[Self]:
        """Open the files of this kind in a folder, sorted by name, damaged ones included, hidden ones not."""
        wanted: Kind | None = getattr(cls, "kind", None)
        files = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            try:
                kind = file_kinds.kind_of(path)
            except BadInputError:
                continue
            if wanted in (None, kind):
                files.append(cast(Self, _class_of(kind)(path)))
        return files

    def read_as(self, *, classes: Sequence[str] | None = None, reading: Reading = PLAIN) -> Self:
        """Give the file with other class names and reading, see `open`; what is known of its bytes is kept."""
        return self._with(given_classes=None if classes is None else tuple(classes), reading=reading)

    @property
    def title(self) -> str:
        """The kind in words, with an article."""
        return file_kinds.TITLES[self.kind]

    @property
    def name(self) -> str:
        """File name, without the folder."""
        return self.path.name

    @property
    def stem(self) -> str:
        """File name without extensions of models; see `file_kinds.stem`."""
        return file_kinds.stem(self.path)

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file's bytes, computed on first use."""
        return artifacts.sha256(self.path)

    @property
    def content_sha256(self) -> str:
        """Hash of the file and of weights that it keeps in other files.

        Raises:
            BadInputError: such a file is missing or refused.
        """
        return self.sha256

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """Manifest beside the file; None where there is none.

        Raises:
            BadInputError: it can't be read, or describes another file.
        """
        return artifacts.read_manifest(self.path, lambda: self.sha256)

    @cached_property
    @abstractmethod
    def description(self) -> Description:
        """The model's name, classes, preprocessing, precision, input and output.

        Raises:
            BadInputError: the file is damaged, has no description, or has other classes than were given.
        """

    @property
    def stored_description(self) -> Description | None:
        """Description that an exported file carries; None where it has none, and for a checkpoint."""
        return None

    def golden(self) -> Golden | None:
        """Read the golden images beside the file; None where its manifest names none.

        Raises:
            BadInputError: they are missing or were changed.
        """
        return golden.read(self.path, self.manifest or {})

    @abstractmethod
    def runner(self) -> Runner:
        """Load what computes the file's scores on this machine."""

    @abstractmethod
    def predictor(self, *, for_proof: bool = False) -> Predictor:
        """Load the model to classify images; an engine is tested on its golden images first.

        Args:
            for_proof: load it as a proof needs it. Float16 in an ONNX file is emulated: a CPU would compute in float32
                and hide its effect on the logits. Weights that are not finite are left to the proof to find.

        Raises:
            BadInputError: anything wrong with the file, or a manifest beside it that disagrees.
            CheckFailedError: an engine that doesn't compute what its graph does.
            MissingCapabilityError: an engine that can't run here.
        """

    def _with(self, **changes: Any) -> Self:
        """Copy with other fields, keeping what is cached of the file's bytes."""
        changed = dataclasses.replace(self, **changes)
        fields = {field.name for field in dataclasses.fields(self)}
        vars(changed).update(
            {name: value for name, value in vars(self).items() if name not in {*fields, "description"}}
        )
        return changed

    def _require_agreement(self, description: Description) -> None:
        """Raise BadInputError where other classes, weights or image sizes are asked for than an exported file has."""
        given, own = self.given_classes, description.classes
        if given is not None and not names.same(given, own):
            raise BadInputError(
                f"{self.path} has the classes {', '.join(own)}, not {', '.join(given)}.", "Leave out `classes`."
            )
        if self.reading.factory is not None:
            raise BadInputError(
                f"{self.path} has its network in it: {self.reading.factory} isn't needed.",
                "`factory` is for a checkpoint: leave it out.",
            )
        if self.reading.weights is not None:
            raise BadInputError(f"{self.path} has one set of weights.", "`weights` is for a checkpoint: leave it out.")
        if self.reading.image_size not in (None, description.preprocess.size):
            raise BadInputError(
                f"{self.path} takes images of {description.preprocess.size} pixels, not {self.reading.image_size}.",
                "Leave out `image_size`.",
            )


class CheckpointFile(ModelFile):
    """A checkpoint: ours, the authors', or a state dict of another training program."""

    kind: ClassVar[Kind] = "checkpoint"

    def load(self) -> Checkpoint:
        """Read the checkpoint; its weights are not cached.

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
        """Description of the float32 network."""
        return self._describe(self.load())

    def runner(self) -> TorchRunner:
        """Load the network in PyTorch on the CPU."""
        return self._runner(self.load())

    def predictor(self, *, for_proof: bool = False) -> Predictor:
        """Load the network in PyTorch on the CPU; see `ModelFile.predictor`."""
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


@dataclass(frozen=True)
class OnnxFile(ModelFile):
    """An ONNX file, ours or not.

    Args:
        path: the file.
        given_classes: class names, which must agree with the file's.
        reading: see `ModelFile`.
        assumed: description of a file that isn't ours; see `assuming`.
    """

    assumed: Description | None = None

    kind: ClassVar[Kind] = "onnx"

    def assuming(self, description: Description) -> OnnxFile:
        """Copy with an assumed description, for a file that isn't ours."""
        return self._with(assumed=description)

    @property
    def is_ours(self) -> bool:
        """Whether the file has our metadata, valid or not; False for a damaged file."""
        try:
            return onnx_model.KEY in self._metadata
        except BadInputError:
            return False

    @cached_property
    def description(self) -> Description:
        """Description in the file's metadata, or the assumed one; the graph isn't checked against it."""
        if self.assumed is not None and not self.is_ours:
            self._require_agreement(self.assumed)
            return self.assumed
        description = onnx_model.description_of(self.path, self._metadata)
        self._require_agreement(description)
        return description

    @property
    def stored_description(self) -> Description | None:
        """Description in the file's metadata; None where it isn't one of ours."""
        try:
            return self.description if self.is_ours else None
        except BadInputError:
            return None

    @cached_property
    def content_sha256(self) -> str:
        """Hash of the file and its external weights."""
        return self.sha256 if self.is_ours else external_data.content_sha256(self.path, self.sha256, self._parse())

    @cached_property
    def ends(self) -> tuple[str, str]:
        """Names of the input and the output of a file that has one of each."""
        graph = self._parse().graph
        return onnx_model.inputs(graph)[0].name, graph.output[0].name

    def read(self) -> onnx.ModelProto:
        """Parse and check the file, and load external weights; it is parsed again on each call.

        Raises:
            BadInputError: not a whole ONNX file, external data that is refused, a manifest of another file; for one of
                ours, another input or output than it describes.
        """
        _ = self.manifest  # one beside it has to describe it
        model = self._parse()
        if not self.is_ours:
            external_data.load(self.path, model)
        external_data.refuse(self.path, model)
        if self.is_ours:
            onnx_model.check_signature(self.path, model, self.description)
        return model

    def read_ours(self) -> tuple[onnx.ModelProto, Description]:
        """Parse and check one of our files.

        Raises:
            BadInputError: see `read`; a file that isn't ours, without an assumed description.
        """
        return self.read(), self.description

    def runner(self, *, threads: int | None = None, emulated: bool = False) -> OnnxRunner:
        """Load the file in ONNX Runtime on the CPU.

        Args:
            threads: threads within an operator.
            emulated: round every float16 result as a GPU does; a CPU computes float16 in float32.

        Raises:
            BadInputError: ONNX Runtime can't load it.
        """
        from hemf_export.calibration import emulation

        return self._runner(emulation.of_file(self.read()) if emulated else self.path, threads)

    def predictor(self, *, for_proof: bool = False) -> Predictor:
        """Load the file in ONNX Runtime on the CPU; see `ModelFile.predictor`."""
        from hemf_export.calibration import emulation
        from hemf_export.models.predictor import Predictor

        model = self.read()  # raises before the native parser sees the file
        emulated = for_proof and self.description.precision in ("fp16", "int8")
        runner = self._runner(emulation.of_file(model) if emulated else self.path)
        return Predictor(self.description, runner, emulated=emulated, fixed_batch=self.description.batch)

    def _runner(self, source: Path | ir.Model, threads: int | None = None) -> OnnxRunner:
        from hemf_export.models.runners import OnnxRunner

        name = f"ONNX Runtime, {self.name}" + ", float16 emulated" * (source is not self.path)
        return OnnxRunner(source, name, threads=threads, output=self.description.output)

    def _parse(self) -> onnx.ModelProto:
        model = onnx_model.parse(self.path)
        vars(self).setdefault("_metadata", onnx_model.metadata_of(model))
        return model

    @cached_property
    def _metadata(self) -> dict[str, str]:
        return onnx_model.metadata_of(onnx_model.parse(self.path))


class EngineFile(ModelFile):
    """A TensorRT engine with its manifest. Engines hold executable code: none is loaded before its preflight check."""

    kind: ClassVar[Kind] = "engine"

    @cached_property
    def description(self) -> Description:
        """Description, in the engine's manifest, of the graph that it was built from."""
        if self.manifest is None:
            raise BadInputError(
                f"{self.path} has no manifest: nothing tells its classes and preprocessing.",
                "Take the manifest along with it, or build the engine again.",
            )
        description = Description.from_manifest(self.path, self.manifest)
        self._require_agreement(description)
        return description

    @property
    def stored_description(self) -> Description | None:
        """Description in the manifest; None without a manifest.

        Raises:
            BadInputError: the manifest is damaged, or describes another file.
        """
        return None if self.manifest is None else self.description

    def runner(self, *, cuda_graphs: bool = True, contexts: int = 4, trust: bool = False) -> EngineRunner:
        """Load the engine on this machine's first GPU; see `engines.load`.

        Raises:
            BadInputError: not the file that its manifest describes, or not an engine.
            MissingCapabilityError: it is for another TensorRT or GPU, or this machine has none.
        """
        from hemf_export import engines

        return engines.load(self.path, trust=trust, cuda_graphs=cuda_graphs, contexts=contexts)

    def self_test(self, *, cuda_graphs: bool = True) -> SelfTest:
        """Load the engine and run its golden images.

        Raises:
            BadInputError: it has none, or they were changed; or its manifest doesn't describe this engine.
            CheckFailedError: a logit differs by more than the manifest allows, or isn't finite.
            MissingCapabilityError: the engine is for another GPU or TensorRT.
        """
        from hemf_export.models import self_test

        with self.runner(cuda_graphs=cuda_graphs) as runner:
            if (known := self.golden()) is None:
                raise BadInputError(
                    f"{self.path} has no golden images.", "Build it with some: `build_engine()`, without `golden=0`."
                )
            result = self_test.require(runner, known, self.description, self.path)
        return dataclasses.replace(result, notes=tuple(runner.notes))

    def predictor(self, *, for_proof: bool = False) -> Predictor:
        """Load the engine on this machine's first GPU, and test it on its golden images; see `ModelFile.predictor`."""
        from hemf_export.models import self_test
        from hemf_export.models.predictor import Predictor

        if not artifacts.manifest_path(self.path).is_file():
            _ = self.description  # raises the error for that
        try:
            runner = self.runner()
        except MissingCapabilityError as error:
            raise MissingCapabilityError(
                error.message, f"{error.hint or ''} The ONNX file that it was built from runs on a CPU.".strip()
            ) from error
        description, sizes, notes = self.description, runner.interface, []
        if (known := self.golden()) is not None:
            self_test.require(runner, known, description, self.path)
        else:
            notes.append(f"{self.name} has no golden images: nothing shows that it computes what its graph does.")
        fixed = sizes.smallest if sizes.smallest == sizes.largest else None
        return Predictor(description, runner, fixed_batch=fixed, filled=sizes.filled, notes=(*notes, *runner.notes))


def _class_of(kind: Kind) -> type[ModelFile]:
    classes: tuple[type[ModelFile], ...] = (CheckpointFile, OnnxFile, EngineFile)
    return next(each for each in classes if each.kind == kind)
