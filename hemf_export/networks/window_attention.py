"""Attention within windows that are shifted in every other block (Liu et al. 2021, arXiv:2103.14030).

Tensors have the names and shapes of the authors' code. Tokens are rows (N*H*W, C), image by image and row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.files.errors import BadInputError

MASKED = -100.0  # addend of the logits of pixels that a shift has brought into one window from far apart


class Windows:
    """The windows of a square map: how its tokens are brought into their order, and back.

    Args:
        side: height and width of the map in pixels, a multiple of `window`.
        window: height and width of a window.
        shift: pixels by which the map is rolled up and to the left first, those that leave it coming in again at the
            other end.
    """

    def __init__(self, side: int, window: int, shift: int) -> None:
        self.side, self.window, self.shift = side, window, shift
        self.along = side // window

    def cut(self, rows: Tensor) -> Tensor:
        """Bring tokens from the map's order into that of the windows, each window row by row: (N*H*W, C), both."""
        channels = rows.shape[1]
        if self.shift:
            rows = self._roll(rows, self.shift)
        # One transpose of four axes: the pixels of a window's row stay together.
        strips = rows.reshape(-1, self.window, self.along, self.window * channels)
        return strips.transpose(1, 2).reshape(-1, channels)

    def join(self, rows: Tensor) -> Tensor:
        """Undo `cut`."""
        channels = rows.shape[1]
        strips = rows.reshape(-1, self.along, self.window, self.window * channels)
        rows = strips.transpose(1, 2).reshape(-1, channels)
        return self._roll(rows, self.side - self.shift) if self.shift else rows

    def _roll(self, rows: Tensor, shift: int) -> Tensor:
        channels = rows.shape[1]
        tall = rows.reshape(-1, self.side, self.side * channels)
        lines = torch.cat([tall[:, shift:], tall[:, :shift]], 1).reshape(-1, self.side * channels)
        return torch.cat([lines[:, shift * channels :], lines[:, : shift * channels]], 1).reshape(-1, channels)

    def order(self) -> Tensor:
        """Positions in the map of the tokens in the windows' order, (H*W,)."""
        return self.cut(torch.arange(self.side**2)[:, None]).flatten()

    def mask(self) -> Tensor:
        """Compute the addend of the logits within each window, (windows, pixels, pixels): 0, or `MASKED` across a seam.

        The regions of the rolled map are parted by the seams of the roll, and by the borders of the last windows.
        """
        position = torch.arange(self.side)
        part = (position >= self.side - self.window).long() + (position >= self.side - self.shift).long()
        rolled = (3 * part[:, None] + part).reshape(-1, 1)
        regions = Windows(self.side, self.window, 0).cut(rolled).reshape(self.along**2, -1)
        return (regions[:, :, None] != regions[:, None]) * MASKED


def relative_position_index(window: int) -> Tensor:
    """Rows of the bias table for all pairs of pixels of a window, (pixels, pixels), from the pixels' difference."""
    position = torch.arange(window**2)
    rows, columns = position // window, position % window
    across = 2 * window - 1
    return (rows[:, None] - rows + window - 1) * across + columns[:, None] - columns + window - 1


class WindowAttention(nn.Module):
    """Attention of the pixels of each window to each other, with a learned bias for their relative position.

    Args:
        channels: C, kept.
        heads: number of heads; head h has the contiguous channels from h*C/heads on.
        windows: the windows; the mask follows from their shift.
    """

    relative_position_index: Tensor
    mask: Tensor | None
    bias: Tensor | None

    def __init__(self, channels: int, heads: int, windows: Windows) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads
        self.windows: Windows | None = windows
        self.pixels = windows.window**2
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * windows.window - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.register_buffer("relative_position_index", relative_position_index(windows.window), persistent=False)
        self.register_buffer("mask", windows.mask() if windows.shift else None, persistent=False)
        self.register_buffer("bias", None, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Attend: tokens in the map's order, (N*H*W, C) → (N*H*W, C)."""
        if self.windows is not None:
            rows = self.windows.cut(rows)
        bias = self._bias() if self.bias is None else self.bias
        query, key, value = (self._split(part, len(bias)) for part in self.qkv(rows).split(self.channels, 1))
        bias = bias.flatten(0, 1)
        if self.training:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:
            if self.scale != 1:
                query = query * self.scale
            mixed = (query @ key.transpose(2, 3) + bias).softmax(-1) @ value
        rows = self.proj(self._join(mixed, len(bias) // self.heads))
        return rows if self.windows is None else self.windows.join(rows)

    def _split(self, rows: Tensor, windows: int) -> Tensor:
        """(N*H*W, C) → (rest, windows*heads, pixels, C/heads): four axes, which attention kernels ask for."""
        size = self.channels // self.heads
        if windows == 1:
            return rows.reshape(-1, self.pixels, self.heads, size).transpose(1, 2)
        parts = rows.reshape(-1, windows, self.pixels, self.heads, size).transpose(2, 3)
        return parts.reshape(-1, windows * self.heads, self.pixels, size)

    def _join(self, mixed: Tensor, windows: int) -> Tensor:
        """Undo `_split`."""
        if windows > 1:
            mixed = mixed.reshape(-1, self.heads, *mixed.shape[2:])
        return mixed.transpose(1, 2).reshape(-1, self.channels)

    def _bias(self) -> Tensor:
        """Compute the addend of the logits, (windows, heads, pixels, pixels); without a shift for one window."""
        chosen = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = chosen.reshape(1, self.pixels, self.pixels, self.heads).permute(0, 3, 1, 2)
        return bias if self.mask is None else bias + self.mask[:, None]

    @torch.no_grad()
    def fold(self) -> None:
        """Compute the bias once, and fold the scale into the query's weights, in place.

        If one window is all of the map, its pixels stay in the map's order, and the bias has the order of theirs.
        """
        if self.bias is not None:
            return
        assert self.windows is not None
        bias = self._bias()
        if self.windows.along == 1:
            place = self.windows.order().argsort().to(bias.device)
            bias = bias[:, :, place][:, :, :, place]
            self.windows = None
        self.bias = bias.contiguous()
        self.qkv.weight[: self.channels].mul_(self.scale)
        self.qkv.bias[: self.channels].mul_(self.scale)
        self.scale = 1.0


class PatchMerging(nn.Module):
    """Downsampling of tokens: four pixels side by side, layer norm over their 4*C channels, Linear 4*C→2*C.

    The four follow each other column by column.

    Args:
        channels: C.
        side: height and width of the map in pixels.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.channels, self.side = channels, side
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)
        self.by_rows = False

    def forward(self, rows: Tensor) -> Tensor:
        """(N*H*W, C) → (N*H*W/4, 2*C)."""
        half = self.side // 2
        if self.by_rows:
            pairs = rows.reshape(-1, 2, half, 2 * self.channels).transpose(1, 2)
        else:
            pairs = rows.reshape(-1, 2, half, 2, self.channels).permute(0, 2, 3, 1, 4)
        return self.reduction(self.norm(pairs.reshape(-1, 4 * self.channels)))

    @torch.no_grad()
    def fold(self) -> None:
        """Let the four pixels follow each other row by row, which is one transpose of four axes, in place."""
        if self.by_rows:
            return
        order = torch.arange(4 * self.channels).reshape(2, 2, -1).transpose(0, 1).flatten()
        for parameter in (self.norm.weight, self.norm.bias, self.reduction.weight):
            parameter.copy_(parameter[..., order.to(parameter.device)].clone())
        self.by_rows = True


def check_windows(image_size: int, window: int, heads: tuple[int, ...], depths: tuple[int, ...], limit: int) -> None:
    """Raise BadInputError unless the maps of all four stages are cut into whole windows whose biases are few enough.

    Args:
        image_size: height and width of the image in pixels.
        window: height and width of a window.
        heads: attention heads of each stage.
        depths: blocks of each stage.
        limit: the largest number of values of all biases.
    """
    stride = 4 * 2 ** (len(depths) - 1) * window
    if image_size % stride:
        below = image_size // stride * stride
        raise BadInputError(
            f"image_size must be a multiple of {stride}, not {image_size}: the smallest map is cut into windows of "
            f"{window}×{window} pixels.",
            f"The nearest are {below or stride} and {below + stride}.",
        )
    values = sum(
        (depth // 2 * (image_size // (4 * 2**stage * window)) ** 2 + depth) * heads[stage] * window**4
        for stage, depth in enumerate(depths)
    )
    if values > limit:
        raise BadInputError(f"Windows of {window}×{window} pixels give biases of {values:,} values, at most {limit:,}.")
