"""What this machine computes with: threads and precision, chosen in the open."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch

from sightling.errors import UserError

FASTER = 1.1
"""bfloat16 is chosen where it is at least this much faster: below that its rounding buys nothing."""


@dataclass(frozen=True)
class Choice:
    """A decision and why it was made, for the person who watches and for ``run.json``."""

    value: int | bool
    reason: str


def choose_threads(asked: int | None = None, share: int = 1) -> Choice:
    """How many threads torch computes with; :func:`torch.set_num_threads` is called with it.

    ``asked`` wins, then the environment's ``OMP_NUM_THREADS``, else every core this process may use, shared evenly
    by ``share`` processes.

    Raises:
        UserError: fewer than one thread.
    """
    if asked is not None:
        if asked < 1:
            raise UserError(f"--threads {asked} is too few; at least 1 is needed")
        choice = Choice(asked, "as asked by --threads")
    elif os.environ.get("OMP_NUM_THREADS", "").isdigit() and int(os.environ["OMP_NUM_THREADS"]) > 0:
        choice = Choice(int(os.environ["OMP_NUM_THREADS"]), "as OMP_NUM_THREADS says; --threads changes it")
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        whose = "every core this process may use" if share == 1 else f"{cores} cores shared by {share} processes"
        choice = Choice(max(1, cores // share), f"{whose}; --threads changes it")
    torch.set_num_threads(int(choice.value))
    return choice


def _seconds(device: torch.device, bf16: bool, repeats: int = 5) -> float:
    """The fastest of a few forward products of (1024 x 512) by (512 x 512), casts included, in seconds."""
    x = torch.full((1024, 512), 0.5, device=device)
    weight = torch.full((512, 512), 0.5, device=device)
    best = float("inf")
    with torch.no_grad():
        for _ in range(repeats + 1):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                start = time.perf_counter()
                # .item() waits for the device to be done.
                torch.nn.functional.linear(x, weight).sum().item()
                best = min(best, time.perf_counter() - start)
    return best


def choose_bf16(setting: str | bool, device: torch.device) -> Choice:
    """Whether matrix products run in bfloat16 (autocast); weights and optimizer states stay float32.

    ``"auto"`` measures a small product both ways on this device, now.
    """
    if setting != "auto":
        return Choice(bool(setting), f"bf16: {str(bool(setting)).lower()} in the recipe")
    ratio = _seconds(device, bf16=False) / _seconds(device, bf16=True)
    chosen = ratio >= FASTER
    speed = f"{ratio:.1f}x faster" if ratio >= 1 else f"{1 / ratio:.1f}x slower"
    return Choice(chosen, f"bf16 is {speed} than float32 in a small product on this {device.type}")


def precision_name(bf16: bool) -> str:
    """How the choice is called in tables and files."""
    return "bf16" if bf16 else "float32"
