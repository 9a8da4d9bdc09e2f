"""How the next token is chosen: greedily, or by lot from a shaped distribution.

Legend: ``V`` vocabulary, ``K`` its likeliest tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sightling.errors import UserError, nearest

FIRST, FIRST_FACTOR = 256, 8
"""How many of the likeliest tokens a nucleus is looked for in, and by how much more if they are too few."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is sampled; the names and the order of the steps are those of transformers.

    Attributes:
        max_new_tokens: the answer's length in tokens at most.
        temperature: 0 takes the likeliest token; above, logits are divided by it and a token is drawn.
        top_k: only the k likeliest tokens may be drawn; 0 for all.
        top_p: only the likeliest tokens that together reach this probability (nucleus sampling, Holtzman et al. 2020).
        repetition_penalty: above 1, tokens of the prompt and the answer so far become less likely (Keskar et al. 2019).
        seed: for the drawing; None draws anew each time.
        min_p: only tokens at least this share as likely as the likeliest may be drawn (Nguyen et al. 2024); 0 for all.

    Raises:
        UserError: a value out of its range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    min_p: float = 0.0

    def __post_init__(self) -> None:
        _whole("max_new_tokens", self.max_new_tokens, 1)
        _number("temperature", self.temperature, 0.0, math.inf, "0 (greedy) or above")
        _whole("top_k", self.top_k, 0)
        _number("top_p", self.top_p, math.ulp(0.0), 1.0, "above 0 and at most 1")
        _number("min_p", self.min_p, 0.0, 1.0, "from 0 (all) to 1")
        _number("repetition_penalty", self.repetition_penalty, math.ulp(0.0), math.inf, "above 0; 1 changes nothing")
        if self.seed is not None:
            _whole("seed", self.seed, 0)
            if self.seed >= 2**63:
                raise UserError(f"seed = {self.seed} is too large; it must be below 2**63")

    @classmethod
    def of(cls, options: dict[str, Any]) -> Sampling:
        """From keyword arguments.

        Raises:
            UserError: an unknown name (the nearest known one is told) or a value out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise UserError(f"there is no sampling option {name!r}; {nearest(name, known)}")
        return cls(**options)

    def options(self) -> dict[str, Any]:
        """The values by name."""
        return asdict(self)


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} = {value!r} is wrong; it must be a whole number of at least {least}")


def _number(name: str, value: Any, least: float, most: float, right: str) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not least <= value <= most:
        raise UserError(f"{name} = {value!r} is wrong; it must be a number {right}")


class Chooser:
    """Chooses one answer's tokens, one after another.

    Args:
        sampling: how.
        prompt: the prompt's ids, for the repetition penalty.
        forbidden: ids that are never chosen.
        device: where the logits are.
    """

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], forbidden: Sequence[int], device: torch.device
    ) -> None:
        self.sampling = sampling
        self._forbidden = torch.tensor(list(forbidden), dtype=torch.long, device=device)
        self._prompt = torch.tensor(sorted(set(prompt)), dtype=torch.long, device=device)
        self._seen_V: Tensor | None = None
        # Drawn on the CPU on every device: a seed gives the same answer for the same probabilities.
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits_V: Tensor) -> int:
        """The next token's id; it counts as seen from now on.

        Raises:
            UserError: the logits are not numbers.
        """
        scores_V = logits_V.float().clone()
        scores_V.index_fill_(0, self._forbidden, -torch.inf)
        check_finite(scores_V.max())
        penalty = self.sampling.repetition_penalty
        if penalty != 1.0:
            if self._seen_V is None:
                self._seen_V = torch.zeros_like(scores_V, dtype=torch.bool).index_fill_(0, self._prompt, True)
            lowered_V = torch.where(scores_V < 0, scores_V * penalty, scores_V / penalty)
            scores_V = torch.where(self._seen_V, lowered_V, scores_V)
        if self.sampling.temperature == 0.0:
            token = int(scores_V.argmax())
        else:
            probabilities_V = shaped(scores_V, self.sampling).cpu()
            token = int(torch.multinomial(probabilities_V, 1, generator=self._generator))
        if self._seen_V is not None:
            self._seen_V[token] = True
        return token


def shaped(scores_V: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities_V to draw from: temperature, then the k likeliest, the nucleus, what is likely enough."""
    # Less the maximum first: a tiny temperature cannot overflow then.
    scores_V = (scores_V - scores_V.max()) / max(sampling.temperature, torch.finfo(scores_V.dtype).tiny)
    if 0 < sampling.top_k < scores_V.shape[-1]:
        scores_V = scores_V.masked_fill(scores_V < scores_V.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1.0:
        scores_V = _nucleus(scores_V, sampling.top_p)
    if sampling.min_p > 0.0:
        # The likeliest stands at 0.
        scores_V = scores_V.masked_fill(scores_V < math.log(sampling.min_p), -torch.inf)
    return scores_V.softmax(-1)


def _nucleus(scores_V: Tensor, top_p: float) -> Tensor:
    """Scores of the likeliest tokens that together reach a probability; the others are ruled out.

    The likeliest few are nearly always enough, and finding them takes no sorting of all.
    """
    whole, count = scores_V.logsumexp(-1), scores_V.shape[-1]
    size = min(FIRST, count)
    while True:
        likely_K, order_K = scores_V.topk(size)
        share_K = (likely_K - whole).exp()
        before_K = share_K.cumsum(-1) - share_K
        if size == count or float(before_K[-1]) >= top_p:
            break
        size = min(FIRST_FACTOR * size, count)
    kept_K = before_K < top_p
    # Nothing stands before the likeliest, which always stays.
    kept_K[0] = True
    chosen_K = order_K[kept_K]
    return torch.full_like(scores_V, -torch.inf).index_copy_(0, chosen_K, scores_V[chosen_K])


def check_finite(largest: Tensor) -> None:
    """Refuse logits whose largest entries are not numbers.

    Raises:
        UserError: they are not.
    """
    if not bool(torch.isfinite(largest).all()):
        raise UserError(
            "the model's logits are not finite numbers: its weights are broken, or float16 is too narrow for them"
        )
