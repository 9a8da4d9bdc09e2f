"""A key-value cache with room to grow: a further token is written in place, not by copying what is there.

Legend: ``B`` rows, ``H`` heads, ``T`` tokens, ``W`` head width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from sightling.model.looking import PictureLayer
from sightling.model.modeling import VisionLanguageModel

SPARE = 64
"""The least number of tokens a layer makes room for when it is full."""


class _Room:
    """A buffer with room for more tokens than are in it."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def write(self, held_BHTW: Tensor | None, new_BHTW: Tensor) -> Tensor:
        """What is held and what is new as one tensor_BHTW, a view into the buffer."""
        held = 0 if held_BHTW is None else held_BHTW.shape[-2]
        total = held + new_BHTW.shape[-2]
        buffer = self._buffer
        # Rows that were selected or repeated are a tensor of their own: the buffer is not theirs any more.
        ours = held_BHTW is not None and buffer is not None and held_BHTW.data_ptr() == buffer.data_ptr()
        if buffer is None or not ours or buffer.shape[-2] < total:
            # Half as much again: copying stays a constant share of writing.
            size = total + max(SPARE, total // 2)
            buffer = new_BHTW.new_empty(*new_BHTW.shape[:-2], size, new_BHTW.shape[-1])
            if held_BHTW is not None:
                buffer[..., :held, :] = held_BHTW
            self._buffer = buffer
        buffer[..., held:total, :] = new_BHTW
        return buffer[..., :total, :]


class RoomyLayer(DynamicLayer):
    """transformers' plain layer, except that ``keys`` and ``values`` are views into larger buffers."""

    # The layer is chosen below, by name; transformers shall not take it for its own default.
    _layer_type = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rooms = _Room(), _Room()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write further keys_BHTW and values_BHTW behind those that are there; returns all of them."""
        held = self.get_seq_length() > 0
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys: Tensor = self._rooms[0].write(self.keys if held else None, key_states)
        self.values: Tensor = self._rooms[1].write(self.values if held else None, value_states)
        return self.keys, self.values


def new_cache(model: VisionLanguageModel) -> DynamicCache:
    """An empty cache for the model's language model; layers of other kinds (sliding windows) stay transformers' own."""
    cache = DynamicCache(config=model.language_model.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def is_plain(cache: DynamicCache) -> bool:
    """Whether every layer keeps every token: then padding may lie between tokens, and the end be taken back."""
    return all(isinstance(layer, RoomyLayer | PictureLayer) for layer in cache.layers)


def take_back(cache: DynamicCache, tokens: int) -> None:
    """Forget the last tokens of a plain cache."""
    for layer in cache.layers:
        if tokens and layer.keys is not None:
            kept = layer.get_seq_length() - tokens
            layer.keys, layer.values = layer.keys[..., :kept, :], layer.values[..., :kept, :]
