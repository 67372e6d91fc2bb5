"""What a training step frees on a CPU is kept for the next one, where the C library is glibc.

By itself glibc gives a large block back to the system as soon as it is freed, and the system clears its pages anew when
the next tensor wants them: 15 % of the processor time of a step of hemf-base, batch 8, by getrusage on an AMD EPYC,
2026-11-29. See mallopt(3).
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h's names of what is set
_NEVER = -1
_GROW_BYTES = 256 << 20  # the heap grows by as much at once


def keep() -> bool:
    """From here on, all of this process: no memory goes back to the system before it ends; whether that could be set.

    Results stay the same to the bit. The most memory that is held is what tensors need at once, and what lies between
    them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, which has none
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROW_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
