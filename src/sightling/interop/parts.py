"""What the layouts of transformers have in common: towers, language models, and what these are called there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from sightling.errors import UserError, nearest
from sightling.interop.base import part_config
from sightling.interop.keys import Rule, same, split
from sightling.model import VisionLanguageConfig
from sightling.sight.encoders import TOWERS, EncoderOptions, Tower


def tower_of(told: Any, where: str) -> tuple[PreTrainedConfig, Tower]:
    """A tower's configuration and its class.

    Raises:
        UserError: a tower of a class that is not known here.
    """
    config = part_config(told, f"{where}: vision_config")
    if config.model_type not in TOWERS:
        raise UserError(f"{where}: there is no encoder for {config.model_type!r}; {nearest(config.model_type, TOWERS)}")
    return config, TOWERS[config.model_type]


def text_config(told: Any, where: str, tied: bool | None = None) -> PreTrainedConfig:
    """A language model's configuration; ``tied`` is what the whole says of its head, where it says it.

    Raises:
        UserError: a language model that transformers does not know.
    """
    config = part_config(told, f"{where}: text_config")
    if tied is not None:
        config.tie_word_embeddings = bool(tied)
    return config


class Used(NamedTuple):
    """How a tower is used, for a layout of transformers: ``layer`` as it counts them, ``normalise`` resolved."""

    options: EncoderOptions
    tower: Tower
    layer: int | list[int]

    @property
    def normalise(self) -> Any:
        """A name of statistics, or the statistics as a dictionary."""
        told = self.options.normalise
        return told if isinstance(told, str) else told.model_dump() if told is not None else self.tower.statistics


def encoder_written(layout: str, config: VisionLanguageConfig, positions: str = "interpolated") -> Used:
    """How a tower is used, with the ``positions`` that the layout's towers take.

    Raises:
        UserError: a convolutional stem, which no such layout holds, or other positions.
    """
    options = config.encoder_options()
    if options.stem is not None:
        raise UserError(f"the layout {layout!r} cannot hold encoder.stem; it knows the plain patch convolution alone")
    if options.positions != positions:
        raise UserError(f"the layout {layout!r} cannot hold encoder.positions = {options.positions!r}")
    vision = part_config(config.vision_config, layout)
    layer = options.layer if isinstance(options.layer, int) else list(options.layer)
    return Used(options, TOWERS[vision.model_type], layer)


def states_read(layer: int | Sequence[int], config: Any, tower: Tower) -> int | list[int]:
    """Our ``layer`` for one that counts ``hidden_states``: there the last comes before the tower's last norm."""
    if not isinstance(layer, int):
        return [one for each in layer for one in [states_read(each, config, tower)] if isinstance(one, int)]
    return tower.depth(config) if layer == -1 and _normed(tower) else layer


def states_written(layer: int | Sequence[int], config: Any, tower: Tower, layout: str) -> int | list[int]:
    """The other way.

    Raises:
        UserError: the last layer behind its norm, which ``hidden_states`` do not hold.
    """
    if not isinstance(layer, int):
        return [one for each in layer for one in [states_written(each, config, tower, layout)] if isinstance(one, int)]
    if layer == -1 and _normed(tower):
        raise UserError(
            f"the layout {layout!r} cannot hold encoder.layer = -1, the last layer of a {config.model_type} behind its "
            f"norm; it takes {tower.depth(config)}, the same before it"
        )
    return -1 if layer == tower.depth(config) else layer


def _normed(tower: Tower) -> bool:
    return type(tower).finish is not Tower.finish


EXPERTS = {
    "qwen2_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
    "qwen3_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
    "mixtral": ("block_sparse_moe", "w1", "w3", "w2"),
}
"""Language models whose experts are one tensor in memory and one each in files, and what these are called there."""

CLASSIC, NEWER = "language_model.model.", "model.language_model."


def language_rules(config: VisionLanguageConfig, *prefixes: str) -> list[Rule]:
    """The language model's layers, embeddings and last norm, behind each of the prefixes that are in use."""
    return [
        *_experts(config.get_text_config().model_type, prefixes),
        same("language_model.model.*", *(f"{one}*" for one in prefixes)),
    ]


def head_rules(config: VisionLanguageConfig) -> list[Rule]:
    """The language model and its head: classic keys (``language_model.model.*``), or the newer ones."""
    return [
        *language_rules(config, CLASSIC, NEWER),
        same("language_model.lm_head.*", "language_model.lm_head.*", "lm_head.*"),
    ]


def _experts(kind: str, prefixes: Sequence[str]) -> list[Rule]:
    if kind not in EXPERTS:
        return []
    block, gate, up, down = EXPERTS[kind]
    made = []
    for ours, several in (("gate_up_proj", (gate, up)), ("down_proj", (down,))):
        ways = [tuple(f"{one}layers.#.{block}.experts.@.{each}.weight" for each in several) for one in prefixes]
        # The stack is the first axis; a projection's outputs are the second.
        made.append(split(f"language_model.model.layers.#.mlp.experts.{ours}", *ways, axis=1))
    router = "language_model.model.layers.#.mlp.gate.weight"
    return [*made, same(router, *(f"{one}layers.#.{block}.gate.weight" for one in prefixes))]
