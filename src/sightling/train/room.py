"""How much memory there is: on the accelerator, or in this computer as far as its limits let this process have it."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

GROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its own limit."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free for this process now, those that it holds already included.

    On a CPU what others hold is not free; where a container has a limit, no more than that.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free = psutil.virtual_memory().available
    try:
        limit, used = ((GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        limit = used = "max"
    if limit.isdigit():
        free = min(free, int(limit) - int(used))
    return max(0, free) + held_now(device)


def held_now(device: torch.device) -> int:
    """Bytes that this process holds now: Python and its libraries beside tensors; 0 on an accelerator."""
    return 0 if device.type == "cuda" else int(psutil.Process().memory_info().rss)
