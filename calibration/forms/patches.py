"""Extract patches of an image or a map with one Transpose instead of two.

A convolution whose stride equals its kernel size is a product over rows, one per patch. Our network transposes the map
to pixels first, and these to patches: the compiler uses a kernel for each. With the axes of the patch split first, one
Transpose does both.
"""

from __future__ import annotations

import onnx_ir as ir

from hemf_export.calibration.forms.matching import MAPS_TO_PIXELS, Writer, order, scope, target_shape


def rewrite(model: ir.Model) -> int:
    """Rewrite such pairs of Transposes, in place; return their number."""
    done = 0
    for node in list(model.graph):
        # (N, C, H, W) → (N, H, W, C) → (N, h, p, w, p·C) → (N, h, w, p, p·C)
        split = None if node.inputs[0] is None else node.inputs[0].producer()
        shape = target_shape(split)
        if order(node) != (0, 1, 3, 2, 4) or split is None or shape is None or len(shape) != 5:
            continue
        to_pixels = None if split.inputs[0] is None else split.inputs[0].producer()
        if to_pixels is None or order(to_pixels) != MAPS_TO_PIXELS or (maps := to_pixels.inputs[0]) is None:
            continue
        _, rows, height, columns, joined = shape
        if maps.shape is None or len(maps.shape) != 4 or not isinstance(channels := maps.shape[1], int):
            continue
        width = joined // channels
        if maps.shape[2] != rows * height or maps.shape[3] != columns * width:
            continue
        w = Writer(model.graph, node, scope(node))
        pieces = w.reshape(maps, -1, channels, rows, height, columns, width)
        patches = w.reshape(w.transpose(pieces, 0, 2, 4, 3, 5, 1), -1, rows, columns, height, joined)
        w.replace(node.outputs[0], patches)
        done += 1
    return done
