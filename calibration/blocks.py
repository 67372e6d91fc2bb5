"""The block of the paper that a node belongs to, from its name; for graphs that aren't ours, groups along the graph.

Our exporter names a node by the module that it comes from, `fusion_stages.0.mlp/gelu_4`.
In a reduced network (`networks.hemf.variants`), SIRMLP and MixedAttention are what stands in their place.
"""

from __future__ import annotations

import re

import onnx_ir as ir

RESIZE = "resize"  # of raw images: no block of the paper, and its precision can't be chosen
_ROOT = r"(?:model\.)?"  # prefix of the network where the graph takes raw pixels
_PARTS = (
    (r"resize[./]", RESIZE),
    (r"local_steps\.(\d)[./]", "local step {}"),
    (r"global_steps\.(\d)[./]", "global step {}"),
    (r"local_stages\.(\d)[./]", "ELF {}"),
    (r"global_stages\.(\d)[./]", "EGF {}"),
    (r"fusion_stages\.(\d)\.mlp[./]", "HEF {} SIRMLP"),
    (r"fusion_stages\.(\d)\.(?:local|global)_attention[./]", "HEF {} MixedAttention"),
    (r"fusion_stages\.(\d)[./]", "HEF {} projections"),
    (r"head(?:_norm)?/", "head"),
)
GENERIC_GROUPS = 12  # of a graph that isn't ours
OTHER = "other"


def block_of(name: str) -> str | None:
    """Return the block of a node or weight of our graphs, `ELF 1` to `HEF 4 SIRMLP`; None for any other name."""
    for pattern, label in _PARTS:
        if match := re.match(_ROOT + pattern, name):
            return label.format(*(int(digit) + 1 for digit in match.groups()))
    return None


def blocks(graph: ir.Graph) -> dict[str, str]:
    """Map every node's name to its block.

    In a graph of ours that is a block of the paper. In any other, a run of consecutive nodes, `nodes 1-20`, cut so
    that the groups have about as many products (Conv, Gemm, MatMul) each.
    """
    nodes = list(graph)
    named = {node_name(node): block_of(node_name(node)) for node in nodes}
    if sum(block is not None for block in named.values()) > len(nodes) / 2:
        return {name: block or OTHER for name, block in named.items()}
    weights = [node.op_type in ("Conv", "Gemm", "MatMul") for node in nodes]
    share = max(1.0, sum(weights) / GENERIC_GROUPS)
    groups: list[list[str]] = []
    seen = 0
    for node, product in zip(nodes, weights, strict=True):
        seen += product
        while len(groups) <= max(0, seen - 1) // share:
            groups.append([])
        groups[-1].append(node_name(node))
    by_name: dict[str, str] = {}
    first = 1
    for group in groups:
        label = f"nodes {first}-{first + len(group) - 1}"
        by_name |= dict.fromkeys(group, label)
        first += len(group)
    return by_name


def node_name(node: ir.Node) -> str:
    """Return a node's name, or one derived from its operator and outputs."""
    return node.name or f"{node.op_type}_{node.outputs[0].name}"
