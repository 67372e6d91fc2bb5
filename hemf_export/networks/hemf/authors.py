"""Convert the authors' checkpoints: their key names and layouts to ours.

Their file is a plain state dict (`best_model.pth`) or holds one under `net` (`ckpt.pth`). 1.59 M of their parameters
are unused in a forward pass; they are dropped by name. Works on tensors, not files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hemf_export.files.errors import BadInputError
from hemf_export.networks.hemf.config import STAGES, HemfConfig
from hemf_export.networks.hemf.global_branch import decay_rates, rotation_angles

AUTHORS_HEADS = 8
IMAGE_SIZE = 224  # pixels, in their training
ROOTS = frozenset(  # first parts of their names
    {"downsample_layers", "downsample_layers2", "stages", "stages2", "conv_norm", "conv_head"}
    | {f"fu{stage}" for stage in range(1, STAGES + 1)}
)
TABLE_TOLERANCE = 1e-6

# fu1 has no previous fusion, fu2 to fu4 always have one: the parameters for the other case are never used.
_UNUSED = re.compile(r"fu1\.(Updim|norm1|W3)\.|fu[234]\.(norm2|W)\.")
_TABLES = re.compile(r"stages2\.\d\.RetNetRelPos2d\.(angle|decay)")

# Applied in order, each at the start of the key.
_RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"downsample_layers(2?)\.0\.0\.", r"STEPS\1.0.patches.projection."),
    (r"downsample_layers(2?)\.0\.1\.", r"STEPS\1.0.norm."),
    (r"downsample_layers(2?)\.(\d)\.0\.", r"STEPS\1.\2.norm."),
    (r"downsample_layers(2?)\.(\d)\.1\.", r"STEPS\1.\2.patches.projection."),
    (r"STEPS2\.", "global_steps."),
    (r"STEPS\.", "local_steps."),
    (r"stages\.(\d)\.(\d+)\.conv\.", r"local_stages.\1.\2.convolution."),
    (r"stages\.(\d)\.(\d+)\.dwconv\.", r"local_stages.\1.\2.depthwise."),
    (r"stages\.(\d)\.(\d+)\.pwconv\.", r"local_stages.\1.\2.pointwise."),
    (r"stages\.(\d)\.(\d+)\.norm\.", r"local_stages.\1.\2.norm."),
    (r"stages2\.(\d)\.(norm[12])\.", r"global_stages.\1.\2."),
    (r"stages2\.(\d)\.FC\.", r"global_stages.\1.linears."),
    (r"stages2\.(\d)\.VRC\.(\d+)\.q_proj\.", r"global_stages.\1.retentions.\2.query."),
    (r"stages2\.(\d)\.VRC\.(\d+)\.k_proj\.", r"global_stages.\1.retentions.\2.key."),
    (r"stages2\.(\d)\.VRC\.(\d+)\.v_proj\.", r"global_stages.\1.retentions.\2.value."),
    (r"stages2\.(\d)\.VRC\.(\d+)\.lepe\.conv\.", r"global_stages.\1.retentions.\2.positional."),
    (r"stages2\.(\d)\.VRC\.(\d+)\.out_proj\.", r"global_stages.\1.retentions.\2.output."),
    (r"fu([1-4])\.", lambda match: f"fusion_stages.{int(match[1]) - 1}."),
    (r"conv_norm\.", "head_norm."),
    (r"conv_head\.", "head."),
)
_FUSION_RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"W_l\.", "local_projection."),
    (r"W_g\.", "global_projection."),
    (r"Updim\.", "previous_projection."),
    (r"(W3|W)\.", "joint_projection."),
    (r"norm[12]\.", "joint_norm."),
    (r"norm3\.", "output_norm."),
    (r"norm_([lg])\.", r"ATTENTION_\1.norm."),
    (r"mea_([lg])\.mk\.", r"ATTENTION_\1.mhea.memory_key."),
    (r"mea_([lg])\.mv\.", r"ATTENTION_\1.mhea.memory_value."),
    (r"sa_([lg])\.conv1\.", r"ATTENTION_\1.spatial_gate.convolution."),
    (r"ca_([lg])\.fc1\.", r"ATTENTION_\1.channel_gate.squeeze."),
    (r"ca_([lg])\.fc2\.", r"ATTENTION_\1.channel_gate.excite."),
    (r"ATTENTION_l\.", "local_attention."),
    (r"ATTENTION_g\.", "global_attention."),
    (r"residual\.conv_s\.conv\.", "mlp.squeeze."),
    (r"residual\.conv_s\.bn\.", "mlp.squeeze_norm."),
    (r"residual\.conv1\.conv\.", "mlp.convolution."),
    (r"residual\.bn1\.", "mlp.convolution_norm."),
    (r"residual\.conv2\.conv\.", "mlp.expand."),
    (r"residual\.conv3\.conv\.", "mlp.reduce."),
    (r"residual\.conv3\.bn\.", "mlp.reduce_norm."),
    (r"(\w+_projection)\.conv\.", r"\1.projection."),
    (r"(\w+_projection)\.bn\.", r"\1.norm."),
)


def is_authors_layout(keys: Mapping[str, object]) -> bool:
    """Whether a state dict has the authors' key names."""
    return any(key.startswith(("downsample_layers", "stages2.", "fu1.")) for key in keys)


def rename(key: str) -> str:
    """Translate one of the authors' keys to ours; any other key is returned unchanged."""
    for pattern, replacement in _RENAMES:
        key = re.sub("^" + pattern, replacement, key)
    match = re.match(r"(fusion_stages\.\d\.)(.+)", key)
    if match:
        rest = match[2]
        for pattern, replacement in _FUSION_RENAMES:
            rest = re.sub("^" + pattern, replacement, rest)
        key = match[1] + rest
    return key


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Convert the authors' state dict to our names and shapes.

    Args:
        state: tensors by their key names, without prefixes.

    Returns:
        The converted state dict, and the names of the unused parameters that were dropped.

    Raises:
        BadInputError: position tables that are not the network's.
    """
    converted: dict[str, Tensor] = {}
    dropped: list[str] = []
    for key, value in state.items():
        if _UNUSED.match(key):
            dropped.append(key)
        elif table := _TABLES.fullmatch(key):
            _check_table(key, value, table[1])
        else:
            name = rename(key)
            converted[name] = _reshape(name, value)
    return converted, dropped


def infer_config(state: Mapping[str, Tensor], image_size: int = IMAGE_SIZE) -> HemfConfig:
    """Infer the configuration of a state dict in our layout, assuming 8 heads.

    Args:
        state: tensors by name, from whose shapes the image size can't be inferred.
        image_size: input size in pixels.

    Raises:
        BadInputError: the tensors needed are missing, or no network takes such images.
    """
    try:
        width = state["local_steps.0.patches.projection.weight"].shape[0]
        classes = state["head.weight"].shape[0]
        slots = state["fusion_stages.0.global_attention.mhea.memory_key.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise BadInputError(f"Not a whole HEMF state dict: {error} is missing or has no shape.") from error
    depths = [
        len({key.split(".")[index] for key in state if key.startswith(prefix)})
        for prefix, index in (("local_stages.0.", 2), ("global_stages.0.linears.", 3))
    ]
    size = {96: "hemf-base", 64: "hemf-small", 32: "hemf-tiny"}.get(width, f"hemf-{width}")
    return HemfConfig(
        name=size,
        num_classes=classes,
        width=width,
        image_size=image_size,
        elf_depth=max(1, depths[0]),
        egf_depth=max(1, depths[1]),
        heads=AUTHORS_HEADS,
        memory_slots=slots,
    )


def _check_table(key: str, value: Tensor, kind: str) -> None:
    expected = rotation_angles(value.numel()).repeat_interleave(2) if kind == "angle" else decay_rates(value.numel())
    if expected.shape != value.shape or not torch.allclose(value.float(), expected, atol=TABLE_TOLERANCE, rtol=1e-3):
        raise BadInputError(f"{key} is not the table that the network's equations give: not an unchanged HEMF model.")


def _reshape(name: str, value: Tensor) -> Tensor:
    """Reshape the weights of 1×1 convolutions, and of strided ones over patches, to those of Linears."""
    if value.ndim != 4 or name.endswith(("convolution.weight", "depthwise.weight", "positional.weight")):
        return value
    return value.permute(0, 2, 3, 1).reshape(value.shape[0], -1)


assert STAGES == 4, "the patterns above name four stages"
