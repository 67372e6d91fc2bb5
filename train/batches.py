"""How an epoch's images are divided: into steps, those into micro-batches, those over processes."""

from __future__ import annotations

from dataclasses import dataclass

from hemf_export.files.errors import BadInputError, UsageError

LEAST_PIECE = 2  # images that a process takes at once: BatchNorm needs two


@dataclass(frozen=True)
class Division:
    """`batch_size` images change the weights once, whatever they are divided into.

    Each step's images are cut into `micro_batches` × `processes` pieces, alike to one image, in the order of the epoch:
    first those of the first micro-batch, one for each process. The last step of an epoch has the images that are left,
    in fewer micro-batches where a piece would be of one image; it is left out where even one micro-batch would be.

    Args:
        images: of an epoch.
        batch_size: of a step.
        micro_batches: gradients that are summed for a step.
        processes: that share each micro-batch.

    Raises:
        UsageError: a piece of less than two images.
        BadInputError: not even one step.
    """

    images: int
    batch_size: int
    micro_batches: int = 1
    processes: int = 1

    def __post_init__(self) -> None:
        pieces = self.micro_batches * self.processes
        if self.batch_size < LEAST_PIECE * pieces:
            parts = f"{self.micro_batches} micro-batches" if self.processes == 1 else f"{pieces} pieces"
            raise UsageError(
                f"A batch of {self.batch_size} images can't be divided into {parts}: BatchNorm needs two in each.",
                f"Take `batch_size={LEAST_PIECE * pieces}` or more, or fewer `accumulation_steps`.",
            )
        if not self.steps:
            raise BadInputError(
                f"{self.images} training images are too few for {self.processes} processes: each takes two at once."
            )

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        whole, rest = divmod(self.images, self.batch_size)
        return whole + (rest >= LEAST_PIECE * self.processes)

    def size(self, step: int) -> int:
        """Images of a step, over all processes."""
        return min(self.batch_size, self.images - step * self.batch_size)

    def pieces(self, step: int, rank: int) -> list[range]:
        """The positions in the epoch that one process takes in a step, by micro-batch."""
        size = self.size(step)
        count = min(self.micro_batches, size // (LEAST_PIECE * self.processes))
        start, parts = step * self.batch_size, count * self.processes
        edges = [start + size * part // parts for part in range(parts + 1)]
        own = range(rank, parts, self.processes)
        return [range(edges[part], edges[part + 1]) for part in own]
