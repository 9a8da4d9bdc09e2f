"""How one class of transformers' image towers is run, layer by layer, on inputs of one grid or of several.

Legend: ``N`` encoder inputs, ``C`` = 3, ``H`` ``W`` pixels, ``P`` features an input (those before the patches
among them), ``D`` width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from sightling.errors import UserError
from sightling.sight.configs import make_config, own_names
from sightling.sight.tiling import Tiling

Grid = tuple[int, int]
"""(rows, columns) of patches."""

Fractions = Callable[[int], Tensor]
"""How far along a side of so many patches each begins, from 0 on, in float32."""

ALMOST = 1.0 - 1e-6
"""The greatest place, as a fraction of a side, that lies within the last bucket."""


class Tower(ABC):
    """One class of towers. An instance holds no weights; it is told the tower each time.

    Attributes:
        config_class: its transformers configuration.
        model_class: its transformers model.
        statistics: what its published towers' pixels were normalised with.
        mixes: whether inputs of several grids can run in one pass, padded and masked.
        buckets: whether places can be taken by buckets of the side (see :func:`buckets`).
        stems: whether convolutions may stand in the place of its patches.
        interpolates: whether its places can be resized for another grid; elsewhere they are taken by buckets.
        uses: whether an encoder's options say how it is used; towers that hold several have them one by one.
        together: whether the tiles of a picture are looked at together, by :meth:`pictures`.
        layered: whether another layer than the last may go on.
    """

    config_class: ClassVar[type[PreTrainedConfig]]
    model_class: ClassVar[type[nn.Module]]
    statistics: ClassVar[str] = "half"
    mixes: ClassVar[bool] = True
    buckets: ClassVar[bool] = False
    stems: ClassVar[bool] = False
    interpolates: ClassVar[bool] = True
    uses: ClassVar[bool] = True
    together: ClassVar[bool] = False
    layered: ClassVar[bool] = True

    def defaults(self) -> dict[str, Any]:
        """What the configuration holds where a recipe does not say otherwise."""
        return {}

    def completed(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe's sizes, by transformers' own names, with those that follow from others.

        Heads have a width of 64, and the feed-forward is four times as wide as the tower.
        """
        rest = dict(told)
        if isinstance(width := rest.get("hidden_size"), int):
            heads = self.config_class.attribute_map.get("num_attention_heads", "num_attention_heads")
            rest.setdefault("intermediate_size", 4 * width)
            rest.setdefault(heads, max(1, width // 64))
        return rest

    def configured(self, told: Mapping[str, Any], where: str) -> PreTrainedConfig:
        """The transformers configuration of a tower from a recipe's keys, its type not among them.

        Raises:
            UserError: an unknown key, a wrong value, or sizes that do not fit together.
        """
        rest = self.completed({**self.defaults(), **own_names(self.config_class, told, where)})
        config = make_config(self.config_class, rest, where)
        self.check(config, where)
        return config

    def check(self, config: Any, where: str) -> None:
        """Refuse sizes that do not fit together.

        Raises:
            UserError: the width does not divide into the heads, or an input is smaller than a patch.
        """
        width, heads = self.width(config), config.num_attention_heads
        if width % heads:
            raise UserError(f"{where}: hidden_size {width} is not a multiple of num_attention_heads {heads}")
        side, patch = self.image_size(config), self.patch_size(config)
        if side < patch:
            raise UserError(f"{where}: image_size {side} is less than patch_size {patch}")

    def refuses(self, config: Any, tiling: Tiling) -> str | None:
        """Why it cannot take a tiling scheme, and which it can; None where it takes it, as most towers do."""
        return None

    def cutter(self, tower: Any) -> tuple[nn.Module, str]:
        """The module that cuts patches with a convolution, and the name under which its owner holds it.

        A stem takes its place; only towers that take one are asked.
        """
        raise NotImplementedError(f"a {type(tower).__name__} takes its own patches")

    def tiles(self, config: Any) -> int:
        """How many tiles of a picture run together, those that fill up among them."""
        return 1

    def before(self, config: Any) -> int:
        """How many features stand before the patches; the first of them is the CLS token."""
        return 0

    def width(self, config: Any) -> int:
        """The features' width."""
        return int(config.hidden_size)

    def depth(self, config: Any) -> int:
        """How many layers there are."""
        return int(config.num_hidden_layers)

    def earliest(self, config: Any) -> int:
        """The first layer whose features can go on; those of layers before it are of another grid."""
        return 0

    def patch_size(self, config: Any) -> int:
        """Side in pixels of a patch; of the square of them that becomes one feature, where a tower merges them."""
        return _one(config.patch_size, "patch_size")

    def image_size(self, config: Any) -> int:
        """Side in pixels of the square input that the tower was made for."""
        return _one(config.image_size, "image_size")

    def features(
        self, tower: Any, pixels: Sequence[Tensor], wanted: Sequence[int], *, bucketed: Fractions | None
    ) -> list[list[Tensor]]:
        """States_PD of each input at each wanted layer.

        Args:
            tower: an instance of ``model_class``.
            pixels: normalised pixels_NCHW; each tensor holds inputs of one size.
            wanted: layers from 0 (what the first layer is given) to the depth; -1 is the last with its norm.
            bucketed: places by buckets of the side (see :func:`buckets`), by these fractions of it, instead of
                resized embeddings.

        Returns:
            For each wanted layer, for each tensor of pixels, states_NPD.
        """
        states = [self.embed(tower, one, bucketed) for one in pixels]
        if len(states) > 1 and not self.mixes:
            runs = [self._run(tower, one, None, wanted, pixel) for one, pixel in zip(states, pixels)]
            return [[run[place] for run in runs] for place in range(len(wanted))]
        sizes = [(len(one), one.shape[1]) for one in states]
        longest = max(patches for _, patches in sizes)
        padded = torch.cat([nn.functional.pad(one, (0, 0, 0, longest - one.shape[1])) for one in states])
        mask = None
        if any(patches < longest for _, patches in sizes):
            lengths_N = torch.tensor([patches for count, patches in sizes for _ in range(count)], device=padded.device)
            real_NP = torch.arange(longest, device=padded.device) < lengths_N[:, None]
            # Added to the scores, so that every kind of attention takes it.
            mask = torch.zeros(real_NP.shape, dtype=padded.dtype, device=padded.device)
            mask = mask.masked_fill(~real_NP, torch.finfo(padded.dtype).min)[:, None, None, :]
        found = []
        for layer in self._run(tower, padded, mask, wanted, pixels[0]):
            parts = layer.split([count for count, _ in sizes])
            found.append([part[:, :patches] for part, (_, patches) in zip(parts, sizes)])
        return found

    def pictures(self, tower: Any, pixels_NCHW: Tensor, shapes: Sequence[Grid]) -> Tensor:
        """Features_IKPD of pictures, for a tower that looks at the K tiles of each together.

        Args:
            tower: an instance of ``model_class``.
            pixels_NCHW: normalised pixels of all pictures' tiles in order.
            shapes: (rows, columns) of the tiles of each picture; where they are fewer than K, others fill up.
        """
        raise NotImplementedError(f"a {type(tower).__name__} looks at each tile alone")

    def _run(
        self, tower: Any, states_NPD: Tensor, mask: Tensor | None, wanted: Sequence[int], pixels_NCHW: Tensor
    ) -> list[Tensor]:
        layers = list(self.layers(tower))
        kept: dict[int, Tensor] = {0: states_NPD} if 0 in wanted else {}
        aside = self.aside(tower, pixels_NCHW)
        for number, layer in enumerate(layers[: self.deepest(len(layers), wanted)], start=1):
            states_NPD = self.step(layer, states_NPD, mask, aside)
            if number in wanted:
                kept[number] = states_NPD
        if -1 in wanted:
            kept[-1] = self.finish(tower, states_NPD)
        return [kept[layer] for layer in wanted]

    @staticmethod
    def deepest(layers: int, wanted: Sequence[int]) -> int:
        """How many layers run: what lies behind the last that is wanted does not."""
        return layers if -1 in wanted else max(wanted)

    def aside(self, tower: Any, pixels_NCHW: Tensor) -> Any:
        """What every layer is given besides the states, such as rotary places."""
        return None

    @abstractmethod
    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """What the first layer is given: patches with their places, and what stands before them."""

    @abstractmethod
    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """The tower's layers in order."""

    def step(self, layer: nn.Module, states_NPD: Tensor, mask: Tensor | None, aside: Any) -> Tensor:
        """One layer."""
        result = layer(states_NPD, attention_mask=mask)
        return result[0] if isinstance(result, tuple) else result

    def finish(self, tower: Any, states_NPD: Tensor) -> Tensor:
        """What the tower calls its last hidden state, from the last layer's."""
        return states_NPD


def _one(value: Any, key: str) -> int:
    """A side that transformers may hold twice."""
    if isinstance(value, int):
        return value
    sides = {int(side) for side in value}
    if len(sides) != 1:
        raise ValueError(f"{key} {tuple(value)} is no square; only squares are known")
    return sides.pop()


def multiples(count: int) -> Tensor:
    """Fractions of a side as transformers' Idefics2 reckons them."""
    return (torch.arange(count, dtype=torch.float32) * (1.0 / torch.tensor(count))).clamp(max=ALMOST)


def steps(count: int) -> Tensor:
    """Fractions of a side as MiniCPM-V 2.6 reckons them: PyTorch counts up by one of a patch."""
    return torch.arange(0, ALMOST, float(1 / torch.tensor(count)))


def quotients(count: int) -> Tensor:
    """Fractions of a side as MiniCPM-V 4.6 reckons them."""
    return torch.arange(count) / count


def buckets(rows: int, columns: int, side: int, fractions: Fractions = multiples) -> Tensor:
    """For each patch of a grid, row by row, the number of its place on a ``side`` x ``side`` grid: ids_P.

    Source of the method: Dehghani et al. 2023, "Patch n' Pack" (NaViT), as Idefics2 and MiniCPM-V use it: a
    fraction of the side falls into one of ``side`` equal buckets. The models reckon fractions in ways that differ in
    the last bit, and so, where a fraction lies on a bound, in the bucket.
    """
    bounds = torch.arange(1 / side, 1.0, 1 / side)

    def along(count: int) -> Tensor:
        return torch.bucketize(fractions(count), bounds, right=True)

    return (along(rows)[:, None] * side + along(columns)).flatten()
