"""Decoding by transformers' own layers and cache, for language models that :mod:`sightling.decode.own` does not run.

Legend: ``B`` rows, ``T`` tokens, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sightling.decode.cache import is_plain, new_cache, take_back
from sightling.decode.visual import in_row_order
from sightling.model.modeling import VisionLanguageModel
from sightling.model.spatial import Position, position_ids


class Padded:
    """Where a batch stands: its cache, which cached tokens_BT count, the next position_B.

    Args:
        model: whose cache.
        rows: how many rows.
    """

    def __init__(self, model: VisionLanguageModel, rows: int) -> None:
        self.cache = new_cache(model)
        self.valid_BT = torch.zeros(rows, 0, dtype=torch.bool, device=model.device)
        self.next_B = torch.zeros(rows, dtype=torch.long, device=model.device)

    def __len__(self) -> int:
        """How many rows."""
        return len(self.next_B)

    def repeat(self, order: Sequence[int]) -> None:
        """These rows, in this order, some of them perhaps several times."""
        rows = torch.tensor(list(order), device=self.next_B.device)
        self.cache.batch_select_indices(rows)
        self.valid_BT, self.next_B = self.valid_BT[rows], self.next_B[rows]

    def drop(self, places: Sequence[int]) -> list[int]:
        """Let rows leave; which former row stands at each place now."""
        order = [row for row in range(len(self)) if row not in set(places)]
        if order:
            self.repeat(order)
        return order

    def take_back(self, tokens: int) -> None:
        """Forget the last tokens of a plain cache; where the next word stands has to be told."""
        take_back(self.cache, tokens)
        self.valid_BT = self.valid_BT[:, : self.valid_BT.shape[1] - tokens]
        self.next_B = self.next_B - tokens


class TheirDecoder:
    """Runs the model as ``generate`` does.

    Args:
        model: the model.
        reason: why not :class:`~sightling.decode.own.OwnDecoder`.
    """

    way = "transformers"

    def __init__(self, model: VisionLanguageModel, reason: str) -> None:
        self.model = model
        self.reason = reason
        self.plain = is_plain(new_cache(model))

    def start(self, rows: int) -> Padded:
        """Empty rows."""
        return Padded(self.model, rows)

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """Logits_BV of last hidden states."""
        logits_BV: Tensor = self.model.get_output_embeddings()(hidden_BD)
        return logits_BV

    @torch.inference_mode()
    def feed(
        self,
        rows: Padded,
        tokens: Sequence[Sequence[int]],
        features: Sequence[Tensor] = (),
        positions: Sequence[Sequence[Position] | None] = (),
    ) -> Tensor:
        """As :meth:`sightling.decode.own.OwnDecoder.feed`; shorter rows are padded before their tokens."""
        model = self.model
        length = max(len(row) for row in tokens)
        # What stands there is hidden, but must be no picture.
        pad = 1 if model.config.image_token_id == 0 else 0
        ids_BT = torch.tensor([[pad] * (length - len(row)) + list(row) for row in tokens], device=model.device)
        sizes_B = torch.tensor([len(row) for row in tokens], device=model.device)
        offset_BT = torch.arange(length, device=model.device) - (length - sizes_B)[:, None]
        rows.valid_BT = torch.cat([rows.valid_BT, offset_BT >= 0], dim=1)
        positions_BT = (rows.next_B[:, None] + offset_BT).clamp_min(0)
        rows.next_B = rows.next_B + sizes_B
        told = [own for own in positions if own is not None]
        if told:
            nowhere: Position = (0, 0, 0) if any(isinstance(one, tuple) for own in told for one in own) else 0
            placed = position_ids([[nowhere] * (length - len(own)) + list(own) for own in told])
            positions_BT = placed.to(model.device)
            largest_BT = positions_BT if positions_BT.ndim == 2 else positions_BT.amax(0)
            rows.next_B = torch.where(sizes_B > 0, largest_BT.amax(1) + 1, rows.next_B)
        output = model.decode(
            ids_BT,
            image_features_NQD=in_row_order(features),
            # Without padding transformers takes its faster way.
            attention_mask=None if bool(rows.valid_BT.all()) else rows.valid_BT.long(),
            position_ids_BT=positions_BT,
            past_key_values=rows.cache,
            use_cache=True,
        )
        hidden_BD: Tensor = output.last_hidden_state[:, -1]
        return hidden_BD
