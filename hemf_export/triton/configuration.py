"""Write a model's configuration for Triton from the model file and the options: a new one, or an update.

Whether it fits the files beside it is checked by `triton.faults`, which reads it independently of this module.
"""

from __future__ import annotations

from typing import Any

from hemf_export.engines.options import BatchProfile
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.triton import config_file, servable
from hemf_export.triton.options import QUEUE_DELAY_US, BackendName, Options, VersionPolicy
from hemf_export.triton.servable import Servable, Tensor

LABELS = "labels.txt"
THREADS = "intra_op_thread_count"  # the onnxruntime backend's parameter, which model.py reads too
CUDA_GRAPHS = "cuda_graphs"  # read by model.py


def new(name: str, model: Servable, backend: BackendName, options: Options) -> Any:
    """Make the `ModelConfig` of a model's first version.

    Raises:
        UsageError: an option that doesn't apply to this file.
        BadInputError: a file whose batch sizes have gaps.
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
        # Triton uses only the first profile unless the others are listed.
        group.profile.extend(str(index) for index in range(len(model.profiles)))
    (options.versions or VersionPolicy()).put(config)
    _put_batching(config, model, options, fresh=True)
    _put_tuning(config, model, options, fresh=True)
    return config


def changed(config: Any, model: Servable, options: Options) -> Any:
    """Copy the `ModelConfig` of earlier versions for a new one, changed only where the options say so.

    Raises:
        UsageError: an option that doesn't apply to this file.
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
    """Return whether Triton can label the outputs: it takes the argmax, which is meaningless for a single output."""
    return not model.description.output.single


def labels(model: Servable) -> bytes:
    """Return the label file, one class per line.

    Raises:
        BadInputError: a class name that can't be a line.
    """
    classes = model.description.classes
    if odd := [name for name in classes if not _is_line(name)]:
        raise BadInputError(
            f"The class name {odd[0]!r} of {model.path} can't be a line of {LABELS}.", "Rename the class in the model."
        )
    return "".join(f"{name}\n" for name in classes).encode()


def _is_line(name: str) -> bool:
    """Return whether a name is a single line that UTF-8 can encode."""
    return [name] == name.splitlines() and not any("\ud800" <= sign <= "\udfff" for sign in name)


def _largest(model: Servable, backend: BackendName, options: Options) -> int:
    """Return `max_batch_size`; 0 if the batch is fixed and so part of the shapes."""
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
    """Set dynamic batching, if the server may batch requests at all."""
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
    """Return whether the backend can run a batch of `size`; model.py pads those that the model doesn't take."""
    return backend == "python" or model.takes(size)


def _preferred(model: Servable, largest: int) -> tuple[int, ...]:
    """Return the optimum of each optimization profile, or of the default profile for an ONNX file, which has none."""
    if model.flavour == "onnx" and model.fixed_batch is not None:
        return (min(model.fixed_batch, largest),)
    optima = (profile.optimum for profile in model.profiles or (BatchProfile(),))
    return tuple(size for size in optima if 1 < size <= largest)


def _put_tuning(config: Any, model: Servable, options: Options, *, fresh: bool) -> None:
    """Set CUDA graphs and threads."""
    engine = model.flavour != "onnx"
    if options.cuda_graphs and not engine:
        raise UsageError("`cuda_graphs` applies to engines only; ONNX Runtime captures none here.", "Leave it out.")
    if options.threads is not None and _kind(model, options) != "KIND_CPU":
        raise UsageError("`threads` applies to ONNX files on a CPU only.", "Leave it out.")
    if engine and (fresh or options.cuda_graphs is not None):
        graphs = options.cuda_graphs is not False
        if config.backend == "tensorrt":
            # Triton captures batch 1, the preferred sizes and the largest.
            config.optimization.cuda.graphs = graphs
        else:
            config.parameters[CUDA_GRAPHS].string_value = "true" if graphs else "false"
    if options.threads is not None:
        config.parameters[THREADS].string_value = str(options.threads)
