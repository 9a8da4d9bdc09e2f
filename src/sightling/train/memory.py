"""What a long run holds on to on a CPU beside its tensors: prepared kernels, and freed memory not given back."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

KERNELS = 64
"""Prepared matrix products that are remembered; a step of packed rows has a few dozen, other steps have others."""


def bound_kernels() -> None:
    """Have oneDNN remember :data:`KERNELS` prepared kernels and no more, unless the user says how many.

    Each holds its scratch memory. Packed rows have ever new shapes, and with the library's own limit of 1,024 the
    quickstart grew by gigabytes. Must come before the first product: the limit is read once.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def give_back(device: torch.device) -> None:
    """Return freed memory to the system, before worker processes take a copy of all that this one holds."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        # Another C library than glibc has no such call, and no such habit.
        if trim is not None:
            trim(0)
