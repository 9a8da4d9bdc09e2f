"""The loss on items that are never trained on, measured without a trace in the training that goes on."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import Dataset

from sightling.train.objectives.base import Objective
from sightling.train.order import Batches, random_state, restore_random_state
from sightling.train.trained import Whole
from sightling.train.window import Window

SPEEDS = ("samples_per_second", "tokens_per_second", "padding", "waiting_for_data")


@torch.no_grad()
def held_out_loss(
    whole: Whole, objective: Objective, items: Dataset[Any], size: int, accelerator: Accelerator, even: bool = False
) -> dict[str, float]:
    """Mean loss and metrics over a finite dataset in batches of ``size``, in evaluation mode, over all ranks.

    ``even``: every rank runs as many batches, the last ones for nothing, because none can run a model in parts alone.
    Modes and random generators are as they were when it returns.
    """
    state = random_state(accelerator.device)
    was = [(module, module.training) for module in whole.modules()]
    whole.eval()
    batches = Batches(items, objective.collate, size, 0, shuffle=False)
    window, count = Window(), 0
    numbers = math.ceil((batches.length or 0) / batches.size)
    ranks = accelerator.num_processes
    for number in range(accelerator.process_index, -(-numbers // ranks) * ranks if even else numbers, ranks):
        batch = batches[min(number, numbers - 1)]
        if number >= numbers:
            whole(send_to_device(batch, accelerator.device))
            continue
        count += objective.count(batch)
        loss, metrics = whole(send_to_device(batch, accelerator.device))
        window.add_batch(loss, metrics, len(batches.positions(number)), objective.tokens(batch))
    if accelerator.num_processes > 1:
        count = int(accelerator.reduce(torch.tensor(count, device=accelerator.device), reduction="sum"))
    window.add_step(count, 0.0)
    means = window.means(accelerator.num_processes)
    for module, training in was:
        module.training = training
    restore_random_state(state, accelerator.device)
    return {name: value for name, value in means.items() if name not in SPEEDS}
