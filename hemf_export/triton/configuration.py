"""A model's configuration in Triton, from the model file and the options: made anew, or kept and added to.

Here it is written; that it is right for the files beside it is for `triton.faults` to say, which reads it
with no knowledge of this module.
"""

from __future__ import annotations

from typing import Any

from hemf_export.engines.batches import BatchProfile
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.triton import config_file, servable
from hemf_export.triton.options import QUEUE_DELAY_US, BackendName, Options, VersionPolicy
from hemf_export.triton.servable import Servable, Tensor

LABELS = "labels.txt"
THREADS = "intra_op_thread_count"  # the onnxruntime backend's own name for it, which model.py takes too
CUDA_GRAPHS = "cuda_graphs"  # model.py's


def new(name: str, model: Servable, backend: BackendName, options: Options) -> Any:
    """The `ModelConfig` of a model's first version.

    Raises:
        UsageError: an option that makes no sense for this file.
        BadInputError: a file that leaves gaps between the batches that it takes.
    """
    config = config_file.messages().ModelConfig(
        name=name, backend=backend, default_model_filename=servable.OPENED[backend]
    )
    config.max_batch_size = _largest(model, backend, options)
    lead = [] if config.max_batch_size else [model.fixed_batch]
    for into, tensor in ((config.input, model.input), (config.output, model.output)):
        _add_tensor(into, tensor, lead)
    if labelled(model):
        config.output[0].label_filename = LABELS
    group = config.instance_group.add(count=options.instances or 1, kind=_kind(model, options))
    if backend == "tensorrt" and len(model.profiles) > 1:
        # Triton takes the first profile alone, if it isn't told of the others.
        group.profile.extend(str(index) for index in range(len(model.profiles)))
    (options.versions or VersionPolicy()).put(config)
    _put_batching(config, model, options, fresh=True)
    _put_tuning(config, model, options, fresh=True)
    return config


def changed(config: Any, model: Servable, options: Options) -> Any:
    """A copy of the `ModelConfig` of earlier versions for one more: as it is, but for what the options say.

    Raises:
        UsageError: an option that makes no sense for this file.
    """
    copy = config_file.messages().ModelConfig()
    copy.CopyFrom(config)
    if not copy.instance_group:
        copy.instance_group.add(count=1, kind=_kind(model, options))
    if options.max_batch is not None:
        copy.max_batch_size = _largest(model, copy.backend, options)
    if options.device is not None:
        copy.instance_group[0].kind = config_file.enum_number("ModelInstanceGroup.Kind", _kind(model, options))
    if options.instances is not None:
        copy.instance_group[0].count = options.instances
    if options.versions is not None:
        options.versions.put(copy)
    _put_batching(copy, model, options, fresh=False)
    _put_tuning(copy, model, options, fresh=False)
    return copy


def labelled(model: Servable) -> bool:
    """Whether Triton can name the classes: it takes the largest number for the class, which of a single one is none."""
    return not model.description.output.single


def labels(model: Servable) -> bytes:
    """The file of labels, one class a line.

    Raises:
        BadInputError: a name that is no line.
    """
    classes = model.description.classes
    if odd := [name for name in classes if not _is_line(name)]:
        raise BadInputError(
            f"The class name {odd[0]!r} of {model.path} can't be a line of {LABELS}.", "Rename the class in the model."
        )
    return "".join(f"{name}\n" for name in classes).encode()


def _is_line(name: str) -> bool:
    """Whether a name is a line of a text, and of one that UTF-8 can hold."""
    return [name] == name.splitlines() and not any("\ud800" <= sign <= "\udfff" for sign in name)


def _largest(model: Servable, backend: BackendName, options: Options) -> int:
    """`max_batch_size`; 0 where the batch is fixed and so a part of the shapes."""
    fixed, most = model.fixed_batch, model.largest_batch
    if fixed is not None and backend != "python":
        if options.max_batch not in (None, fixed):
            raise UsageError(f"{model.path} has the fixed batch {fixed}.", "Leave out `max_batch`.")
        return 0
    largest = options.max_batch or most or BatchProfile().maximum
    if most is not None and largest > most:
        raise UsageError(
            f"`max_batch={largest}` is over what {model.path} takes: {model.batches}.",
            f"Take {most} or less, or build with larger batches: `build_engine(batch='MIN:OPT:MAX')`.",
        )
    if backend == "tensorrt" and (gap := next((size for size in range(1, largest + 1) if not model.takes(size)), 0)):
        raise BadInputError(
            f"Triton hands over batches of any size up to {largest}; {model.path} takes none of {gap}: "
            f"{model.batches}.",
            "Build it with profiles that begin at 1 and leave none out: `build_engine(batch='1:OPT:MAX')`.",
        )
    return largest


def _add_tensor(into: Any, tensor: Tensor, lead: list[int | None]) -> None:
    into.add(name=tensor.name, data_type=tensor.dtype, dims=[*lead, *tensor.dims])


def _kind(model: Servable, options: Options) -> str:
    return "KIND_GPU" if servable.device_of(model, options) == "gpu" else "KIND_CPU"


def _put_batching(config: Any, model: Servable, options: Options, *, fresh: bool) -> None:
    """Dynamic batching, where the server may put images together at all."""
    sizes, delay = options.preferred, options.queue_delay_us
    if config.max_batch_size <= 1:
        if sizes or delay is not None:
            raise UsageError(
                f"{model.path} is served one request at a time ({model.batches}): there is no queue to batch.",
                "Leave out `preferred` and `queue_delay_us`.",
            )
        config.ClearField("dynamic_batching")
        return
    if fresh and sizes is None:
        sizes = _preferred(model, config.max_batch_size)
    if fresh and delay is None:
        delay = QUEUE_DELAY_US
    if sizes is not None:
        if wrong := [size for size in sizes if size > config.max_batch_size or not _comes(model, config.backend, size)]:
            raise UsageError(
                f"`preferred={wrong[0]}` is not within what is served: up to {config.max_batch_size}, {model.batches}."
            )
        del config.dynamic_batching.preferred_batch_size[:]
        config.dynamic_batching.preferred_batch_size.extend(sorted(set(sizes)))
    if delay is not None:
        config.dynamic_batching.max_queue_delay_microseconds = delay


def _comes(model: Servable, backend: str, size: int) -> bool:
    """Whether a batch of `size` can come to the model as it is; model.py fills up those that it doesn't take."""
    return backend == "python" or model.takes(size)


def _preferred(model: Servable, largest: int) -> tuple[int, ...]:
    """The optimum of each profile; of an ONNX file, which has none, that of the default profile."""
    if model.flavour == "onnx" and model.fixed_batch is not None:
        return (min(model.fixed_batch, largest),)
    optima = (profile.optimum for profile in model.profiles or (BatchProfile(),))
    return tuple(size for size in optima if 1 < size <= largest)


def _put_tuning(config: Any, model: Servable, options: Options, *, fresh: bool) -> None:
    """CUDA graphs and threads."""
    engine = model.flavour != "onnx"
    if options.cuda_graphs and not engine:
        raise UsageError("`cuda_graphs` is of engines; ONNX Runtime captures none here.", "Leave it out.")
    if options.threads is not None and _kind(model, options) != "KIND_CPU":
        raise UsageError("`threads` is of ONNX files on a CPU.", "Leave it out.")
    if engine and (fresh or options.cuda_graphs is not None):
        graphs = options.cuda_graphs is not False
        if config.backend == "tensorrt":
            # It captures a batch of 1, the preferred sizes and the largest.
            config.optimization.cuda.graphs = graphs
        else:
            config.parameters[CUDA_GRAPHS].string_value = "true" if graphs else "false"
    if options.threads is not None:
        config.parameters[THREADS].string_value = str(options.threads)
