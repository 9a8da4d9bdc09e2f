"""Sums between two lines of the log, over micro-batches and ranks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor


class Window:
    """Losses and metrics are summed with the supervised units, so that a line shows exact means."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.numbers = {"count": 0, "samples": 0, "real": 0, "tokens": 0, "steps": 0}
        self.started = time.perf_counter()
        self.waited = 0.0
        self._before = 0

    def add_batch(self, loss: Tensor, metrics: Mapping[str, Tensor], samples: int, tokens: tuple[int, int]) -> None:
        """Add what a micro-batch gave; no number leaves the device."""
        for name, value in {"loss": loss, **metrics}.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.numbers["samples"] += samples
        self.numbers["real"] += tokens[0]
        self.numbers["tokens"] += tokens[1]

    def add_step(self, count: int, waited: float) -> None:
        """Add a step's supervised units (of all ranks) and the seconds that it waited for data."""
        self.numbers["count"] += count
        self.numbers["steps"] += 1
        self.waited += waited

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts, without the clock."""
        return {"sums": {name: value.cpu() for name, value in self.sums.items()}, "numbers": dict(self.numbers)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on where a checkpoint was made in the middle of a window."""
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.numbers = dict(state["numbers"])
        self._before = self.numbers["steps"]

    def means(self, ranks: int) -> dict[str, float]:
        """Means and speeds over all ranks. Waits for the device."""
        local: dict[str, Any] = {
            "sums": {name: float(value) for name, value in self.sums.items()},
            "numbers": self.numbers,
            "waited": self.waited,
        }
        told: list[dict[str, Any]] = gather_object([local]) if ranks > 1 else [local]
        seconds = max(time.perf_counter() - self.started, 1e-9)
        count = max(1, self.numbers["count"])
        names = sorted({name for one in told for name in one["sums"]})
        line = {name: sum(one["sums"].get(name, 0.0) for one in told) / count for name in names}
        total = {name: sum(one["numbers"][name] for one in told) for name in ("samples", "real", "tokens")}
        # Steps from before a resume are in the sums but not in this process's clock.
        share = 1.0 - self._before / max(1, self.numbers["steps"])
        line["samples_per_second"] = total["samples"] * share / seconds
        line["tokens_per_second"] = total["real"] * share / seconds
        line["padding"] = 1.0 - total["real"] / total["tokens"] if total["tokens"] else 0.0
        line["waiting_for_data"] = sum(one["waited"] for one in told) / ranks / seconds
        return line
