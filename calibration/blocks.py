"""The block of a network that a node belongs to, from its name; for graphs that aren't ours, groups along the graph.

Our exporter names a node by the module that it comes from, `fusion_stages.0.mlp/gelu_4`. Some networks have names of
their own for their blocks (`networks.blocks`); any other's are its modules of the first two levels, `layers1.blocks`.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from hemf_export.networks.blocks import BLOCKS

RESIZE = "resize"  # of raw images: no block of the paper, and its precision can't be chosen
_RAW = "model."  # prefix of the network where the graph takes raw pixels
_SCOPED = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)/")  # a module's name before an operator's
GENERIC_GROUPS = 12  # of a graph that isn't ours
_FEWEST_MODULES = 4  # names of fewer say nothing of where in a graph a node is
OTHER = "other"


def block_of(name: str) -> str | None:
    """Return the block of a node or weight of our graphs, `ELF 1` to `HEF 4 SIRMLP`; None for any other name.

    A block has a name of its own, or is the module of the first two levels, `stages.0`, that a node comes from.
    """
    return _own_name(name) or _module(name)


def _own_name(name: str) -> str | None:
    if re.match(r"resize[./]", name):
        return RESIZE
    name = name.removeprefix(_RAW)
    for pattern, label in BLOCKS:
        if match := re.match(pattern, name):
            return label.format(*(int(digit) + 1 for digit in match.groups()))
    return None


def _module(name: str) -> str | None:
    module = _SCOPED.match(name.removeprefix(_RAW))
    return ".".join(module[1].split(".")[:2]) if module else None


def blocks(graph: ir.Graph) -> dict[str, str]:
    """Map every node's name to its block.

    In a graph of ours that is a block of the network. In any other, a run of consecutive nodes, `nodes 1-20`, cut so
    that the groups have about as many products (Conv, Gemm, MatMul) each.
    """
    nodes = list(graph)
    for find, fewest in ((_own_name, 1), (block_of, _FEWEST_MODULES)):
        named = {node_name(node): find(node_name(node)) for node in nodes}
        found = [block for block in named.values() if block is not None]
        if len(found) > len(nodes) / 2 and len(set(found)) >= fewest:
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
