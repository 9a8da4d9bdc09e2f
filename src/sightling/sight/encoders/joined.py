"""Several towers that look at the same picture, their features joined channel by channel.

Source of the method: Tong et al. 2024, "Eyes Wide Shut?" (mixture of features), and Shi et al. 2024, "Eagle". The first
tower's grid is every tower's: what another is given is resized so that its own patches make that grid.

Legend: ``N`` encoder inputs, ``C`` = 3, ``H`` ``W`` pixels, ``P`` patches, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from sightling.errors import UserError
from sightling.parts import validate
from sightling.sight.encoders.encoder import Encoder, EncoderOptions, check_usage, tower_config
from sightling.sight.encoders.registry import TOWERS, register
from sightling.sight.encoders.tower import Fractions, Tower

OPTIONS = tuple(EncoderOptions.model_fields)


class JoinedConfig(PreTrainedConfig):
    """Towers and how each is used.

    Attributes:
        towers: for each, ``config``, its transformers configuration as a dictionary, and ``options``, what
            :class:`~sightling.sight.encoders.encoder.EncoderOptions` holds.
    """

    model_type = "sightling_joined"

    towers: list | None = None

    def members(self) -> list[tuple[PreTrainedConfig, EncoderOptions]]:
        """Each tower's configuration and use."""
        found = []
        for number, told in enumerate(self.towers or []):
            rest = dict(told["config"])
            config = AutoConfig.for_model(rest.pop("model_type"), **rest)
            found.append((config, validate(EncoderOptions, told["options"], f"encoder.towers.{number}")))
        return found


AutoConfig.register(JoinedConfig.model_type, JoinedConfig)


class JoinedTower(nn.Module):
    """The towers, each an encoder of its own."""

    def __init__(self, config: JoinedConfig) -> None:
        super().__init__()
        self.config = config
        self.towers = nn.ModuleList([Encoder(inner, options) for inner, options in config.members()])


@register("joined", JoinedConfig.model_type)
class Joined(Tower):
    """A recipe writes ``{type: joined, towers: [{type: clip, ...}, {type: dinov2, ...}]}``.

    Each tower says for itself which layer it gives and how its pixels are normalised. No CLS token goes on: the
    towers' would not belong to one place.
    """

    config_class, model_class, uses = JoinedConfig, JoinedTower, False

    def configured(self, told: Mapping[str, Any], where: str) -> PreTrainedConfig:
        """See the base class.

        Raises:
            UserError: fewer than two towers, a wrong one, or one that keeps its CLS token.
        """
        for key in told:
            if key != "towers":
                raise UserError(f"{where} has no key {key!r}; a joined encoder's sizes are those of its towers")
        towers = told.get("towers")
        if not isinstance(towers, (list, tuple)) or len(towers) < 2:
            raise UserError(f"{where}.towers must list at least two towers to join")
        members = []
        for number, one in enumerate(towers):
            at = f"{where}.towers.{number}"
            if not isinstance(one, Mapping):
                raise UserError(f"{at} must be a section of keys and values, not {one!r}")
            config = tower_config({key: value for key, value in one.items() if key not in OPTIONS}, at)
            told_options = {key: one[key] for key in OPTIONS if key in one}
            options = validate(EncoderOptions, told_options, at)
            check_usage(config, options, at)
            if options.keep_cls:
                raise UserError(f"{at}.keep_cls is true, but towers are joined patch by patch; leave it out")
            members.append({"config": config.to_diff_dict() | {"model_type": config.model_type},
                            "options": options.model_dump(mode="json", exclude_unset=True)})  # fmt: skip
        return JoinedConfig(towers=members)

    def width(self, config: Any) -> int:
        """All towers' widths together."""
        return sum(
            TOWERS[inner.model_type].width(inner) * len(options.layers) for inner, options in config.members()
        )

    def depth(self, config: Any) -> int:
        """Which layer is a tower's own matter."""
        return 0

    def patch_size(self, config: Any) -> int:
        """The first tower's."""
        return self._first(config)[1]

    def image_size(self, config: Any) -> int:
        """The first tower's."""
        return self._first(config)[0]

    def _first(self, config: Any) -> tuple[int, int]:
        inner, _ = config.members()[0]
        kind = TOWERS[inner.model_type]
        return kind.image_size(inner), kind.patch_size(inner)

    def features(
        self, tower: Any, pixels: Sequence[Tensor], wanted: Sequence[int], *, bucketed: Fractions | None
    ) -> list[list[Tensor]]:
        """See the base class; pixels come normalised to -1 to 1, and each tower normalises them as it knows them."""
        first = tower.towers[0]
        found = []
        for pixels_NCHW in pixels:
            grid = first.grid(*pixels_NCHW.shape[-2:])
            parts = []
            for encoder in tower.towers:
                size = (grid[0] * encoder.patch_size, grid[1] * encoder.patch_size)
                shown = pixels_NCHW
                if tuple(shown.shape[-2:]) != size:
                    shown = F.interpolate(shown.float(), size=size, mode="bicubic", antialias=True).to(shown.dtype)
                mean, deviation = (
                    torch.tensor(told, dtype=shown.dtype, device=shown.device).view(1, 3, 1, 1)
                    for told in (encoder.statistics.mean, encoder.statistics.std)
                )
                parts.append(encoder((shown * 0.5 + 0.5 - mean) / deviation))
            found.append(torch.cat(parts, dim=-1))
        return [found for _ in wanted]

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """Each tower embeds for itself."""
        raise NotImplementedError("joined towers run one by one")

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """The towers' layers are their own."""
        return ()
