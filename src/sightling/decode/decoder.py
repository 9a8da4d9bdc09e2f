"""Which way a model is decoded: by its own weights and few operations, or by transformers' layers.

Legend: ``B`` rows, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor

from sightling.decode.own import OwnDecoder
from sightling.decode.products import BRIEF, BYTES, HALF, KEPT, NIBBLES
from sightling.decode.rounded import brief_is_fast
from sightling.decode.theirs import TheirDecoder
from sightling.decode.weights import refusal
from sightling.errors import UserError, nearest
from sightling.model.modeling import VisionLanguageModel
from sightling.model.spatial import Position

STORED = {"own": KEPT, "own_float16": HALF, "own_bfloat16": BRIEF, "own_int8": BYTES, "own_int4": NIBBLES}
"""The own ways, by how they store the language model's matrices: as they are, or rounded for speed."""

WAYS = ("auto", *STORED, "transformers")
"""What may be asked for; ``auto`` is an own way (:func:`usual`) where there can be one, else ``transformers``."""

LARGE = 2**24
"""Parameters of a language model from which the products are most of a token's time."""


class Held(Protocol):
    """What is held of a batch: keys, values, and where each row stands."""

    def __len__(self) -> int:
        """How many rows."""

    def repeat(self, order: Sequence[int]) -> None:
        """These rows, in this order, some of them perhaps several times."""

    def drop(self, places: Sequence[int]) -> list[int]:
        """Let rows leave; which former row stands at each place now."""

    def take_back(self, tokens: int) -> None:
        """Forget the last tokens of every row."""


class Decoder(Protocol):
    """A way to decode.

    Attributes:
        way: its name, one of :data:`WAYS`.
        plain: whether every row keeps every token: the end can be taken back, and padding may lie between tokens.
    """

    @property
    def model(self) -> VisionLanguageModel:
        """The model."""

    @property
    def way(self) -> str:
        """Its name."""

    @property
    def plain(self) -> bool:
        """Whether every row keeps every token."""

    def start(self, rows: int) -> Any:
        """Empty rows, a :class:`Held`."""

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """Logits_BV of last hidden states."""

    def feed(
        self,
        rows: Any,
        tokens: Sequence[Sequence[int]],
        features: Sequence[Tensor] = (),
        positions: Sequence[Sequence[Position] | None] = (),
    ) -> Tensor:
        """Run further tokens behind each row's; hidden_BD of each row's last one."""


_known: WeakKeyDictionary[VisionLanguageModel, dict[str, OwnDecoder]] = WeakKeyDictionary()


def usual(model: VisionLanguageModel) -> str:
    """The own way that ``auto`` takes: in bfloat16 for a large float32 model where the processor computes in it."""
    count = sum(parameter.numel() for parameter in model.language_model.parameters())
    return "own_bfloat16" if count >= LARGE and brief_is_fast() and not refusal(model, BRIEF) else "own"


def decoder_for(model: VisionLanguageModel, way: str = "auto") -> Decoder:
    """The decoder of a model as its weights are now; what was laid out for an earlier answer is used again.

    Raises:
        UserError: an unknown way, or an own one for a model that cannot be decoded so (the reason is told).
    """
    if way not in WAYS:
        raise UserError(f"decoder = {way!r} is unknown; {nearest(way, WAYS)}")
    stored = STORED.get(usual(model) if way == "auto" else way, KEPT)
    reason = "transformers was asked for" if way == "transformers" else refusal(model, stored)
    if reason:
        if way in STORED:
            raise UserError(f"decoder = {way!r} cannot decode this model: {reason}; use 'auto' or 'transformers'")
        return TheirDecoder(model, reason)
    known = _known.setdefault(model, {})
    if stored not in known or not known[stored].weights.current(model):
        known[stored] = OwnDecoder(model, stored=stored)
    return known[stored]
