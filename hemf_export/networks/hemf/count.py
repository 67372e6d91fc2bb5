"""Count parameters and multiply-adds of a network, part by part, in two ways.

`paper`: as the thop package counts on the authors' code, which gave the paper's 66.64 M and 10.01 G: convolutions,
Linears, BatchNorm (4 operations a value), nn.Softmax (3 a value, less 1 a row) and pooling; of layer norms only the
head's, with its parameters; no products of attention.
`products`: every matrix product of the equations, attention included, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hemf_export.networks import published
from hemf_export.networks.count import Count
from hemf_export.networks.hemf.config import HemfConfig
from hemf_export.networks.hemf.fusion import HEF, IRMLP, SIRMLP
from hemf_export.networks.hemf.global_branch import Retention
from hemf_export.networks.hemf.mixed_attention import MHEA, ChannelGate
from hemf_export.networks.hemf.model import HEMF

PARTS = ("stem and downsampling", "ELF", "EGF", "HEF: projections", "HEF: Mixed Attention", "HEF: SIRMLP", "head")
_ATTENTION_PARTS = {"mhea": "HEF: MHEA", "ca-sa": "HEF: CA and SA"}
_MLP_PARTS = {"irmlp": "HEF: IRMLP", "projection": "HEF: projection for SIRMLP"}


def count_parts(config: HemfConfig) -> dict[str, Count]:
    """Count each of `PARTS`, by a forward pass on the meta device.

    A reduced network has fewer parts, and what replaces Mixed Attention or SIRMLP has its own name.
    """
    with torch.device("meta"):
        model = HEMF(config).eval()
        counts = _count(model, torch.empty(1, 3, config.image_size, config.image_size))
    parts = {name: Count() for name in PARTS}
    for name, count in counts.items():
        parts[_part(name)] += count
    names = {
        PARTS[4]: _ATTENTION_PARTS.get(config.attention, PARTS[4]),
        PARTS[5]: _MLP_PARTS.get(config.mlp, PARTS[5]),
    }
    return {names.get(part, part): count for part, count in parts.items() if count != Count()}


def count_mlp(kind: type[SIRMLP] | type[IRMLP], channels: int, size: int) -> Count:
    """Count one SIRMLP or IRMLP on (1, 3C, size, size): a cell of Table 3."""
    with torch.device("meta"):
        counts = _count(kind(channels).eval(), torch.empty(1, 3 * channels, size, size))
    return sum(counts.values(), Count())


def table_3() -> list[dict[str, Any]]:
    """Recount the paper's Table 3, beside the published numbers."""
    rows = []
    for row in published.TABLE_3:
        ours, wide = (count_mlp(kind, row.channels, row.size) for kind in (SIRMLP, IRMLP))
        counted = (
            ours.parameters / 1e6,
            wide.parameters / 1e6,
            100 * (1 - ours.parameters / wide.parameters),
            ours.paper / 1e9,
            wide.paper / 1e9,
            100 * (1 - ours.paper / wide.paper),
        )
        names = published.MlpRow._fields[3:]
        rows.append({"stage": row.stage, "found": dict(zip(names, counted, strict=True)), "published": row._asdict()})
    return rows


def _part(name: str) -> str:
    if name.startswith("fusion_stages"):
        if ".mlp" in name:
            return PARTS[5]
        return PARTS[4] if "_attention" in name else PARTS[3]
    starts = {"local_stages": "ELF", "global_stages": "EGF", "local_steps": PARTS[0], "global_steps": PARTS[0]}
    return starts.get(name.split(".")[0], "head")


@torch.no_grad()
def _count(model: nn.Module, example: Tensor) -> dict[str, Count]:
    counts: dict[str, Count] = {}
    handles = []

    def hook(name: str) -> Callable[..., None]:
        def seen(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            before = counts.get(name, Count())
            counts[name] = before + _operations(module, inputs, output)

        return seen

    for name, module in model.named_modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        # The authors' layer norm is a class of their own that thop doesn't know; the head's is nn.LayerNorm.
        missed = isinstance(module, nn.LayerNorm) and name != "head_norm"
        counts[name] = Count(parameters=own, paper_parameters=0 if missed else own)
        handles.append(module.register_forward_hook(hook(name)))
    model(example)
    for handle in handles:
        handle.remove()
    return counts


def _operations(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Count:
    if isinstance(module, nn.Linear):
        products = output.numel() * module.in_features
        return Count(paper=products, products=products)
    if isinstance(module, nn.Conv2d):
        products = output.numel() * module.weight[0].numel()
        return Count(paper=products, products=products)
    if isinstance(module, nn.BatchNorm1d):
        return Count(paper=4 * output.numel())
    if isinstance(module, Retention):
        tables = inputs[1]
        pairs = output.numel() * (tables.width + tables.height)  # q kᵀ, and as many again for the values
        return Count(products=2 * pairs)
    if isinstance(module, MHEA):
        rows, tokens = inputs
        attention = rows.numel() // module.memory_key.in_features * module.memory_key.out_features
        products = 2 * attention * module.memory_key.in_features
        return Count(paper=products + 3 * attention - attention // tokens, products=products)
    return Count(paper=_pooling(module, inputs, output))


def _pooling(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    if isinstance(module, HEF) and len(inputs) > 2 and inputs[2] is not None:
        return int(output.numel())  # average pooling 2×2
    if isinstance(module, ChannelGate):
        maps = inputs[0]
        return int(maps.numel() + output.numel())  # global average: a sum, and a division per channel
    return 0
