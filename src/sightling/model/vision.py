"""How a composed model turns encoder inputs into visual tokens and puts them in the place of placeholders.

Legend: ``B`` rows, ``T`` tokens, ``I`` pictures, ``N`` encoder inputs (tiles), ``C`` = 3, ``H`` ``W`` pixels, ``P``
features an input, ``Q`` visual tokens an input, ``V`` visual tokens in all, ``D`` width.

Where a connector reads the user's words with a picture (InstructBLIP), the encoder still sees a picture once:
:class:`Features` are what is kept of it, and the connector runs on them with the words of each question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sightling.model.gated import GatedLayers
from sightling.model.inputs import OWN, Inputs, words_of
from sightling.sight.encoders import Encoder, Grid
from sightling.sight.joining import join
from sightling.sight.tiling import Plan, Tiling

OF_EACH = ("image_sizes", "qformer_input_ids", "qformer_attention_mask")
"""The arguments that hold one row for each picture."""

PICTURES = ("pixel_values", "image_features", *OF_EACH)
"""The arguments that hold pictures: as many as the rows have, in their order."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the encoder makes of a picture: features_PD of each of its inputs, and how it was cut.

    Where a tower looks at a picture's tiles together and those that fill up behind them are wanted, they are here, too.
    """

    tiles: list[Tensor]
    plan: Plan


class SeesPictures:
    """What :class:`~sightling.model.modeling.VisionLanguageModel` does with pictures before they are read."""

    if TYPE_CHECKING:
        # The model that this is a part of has them.
        encoder: Encoder
        connector: Any
        tiling: Tiling
        config: Any
        device: Any

        def get_input_embeddings(self) -> Any:
            """The language model's token embeddings."""

    @property
    def gated(self) -> GatedLayers | None:
        """The layers that look at pictures beside the text; None where pictures stand in the text."""
        return getattr(self.connector, "gated", None)

    def plans(self, image_sizes_I3: Tensor) -> list[Plan]:
        """How each picture was cut, from its (height, width, budget in tiles or 0); without a third column, no budget.

        Raises:
            ValueError: sizes of another shape.
        """
        if image_sizes_I3.ndim != 2 or image_sizes_I3.shape[1] not in (2, 3):
            raise ValueError(f"image_sizes are {tuple(image_sizes_I3.shape)}; they must be (pictures, 2 or 3)")
        side, patch = self.encoder.image_size, self.encoder.patch_size
        return [
            self.tiling.plan(width, height, side, patch, None if not budget or budget[0] == OWN else budget[0])
            for height, width, *budget in image_sizes_I3.tolist()
        ]

    def get_image_features(
        self,
        pixel_values: Tensor,
        image_sizes: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
    ) -> Tensor | Sequence[Tensor]:
        """Visual tokens of encoder inputs: pixels_NCHW to tokens_NQD, or tokens_VD where they are not all alike.

        Where they stand beside the text, tokens_IVD of the pictures, or tokens_VD of each where they are not all alike.

        Args:
            pixel_values: the encoder inputs of all pictures.
            image_sizes: (height, width) of each picture, and its budget in tiles if it has one, sizes_I2 or _I3;
                it may be left out where every input is a whole square and its tokens follow the last input's.
            qformer_input_ids: the words that each picture is read with, ids_IT, for a connector that reads any.
            qformer_attention_mask: 1 where they count, mask_IT; left out, all of them do.

        Raises:
            ValueError: no sizes for a scheme that needs them, sizes that another number of inputs belongs to, or words
                that are not there or not read.
        """
        if image_sizes is None:
            if self.tiling.ends_rows:
                raise ValueError("image_sizes is missing: the tiling scheme joins each picture's tiles by its size")
            if self.encoder.kind.together:
                raise ValueError("image_sizes is missing: the encoder looks at the tiles of a picture together")
            grid = self.encoder.grid(pixel_values.shape[-2], pixel_values.shape[-1])
            words_NT = self._words([1] * len(pixel_values), qformer_input_ids, qformer_attention_mask)
            return self.connector(self.encoder(pixel_values), grid, **words_NT)
        plans = self.plans(image_sizes)
        words_NT = self._words(list(map(len, plans)), qformer_input_ids, qformer_attention_mask)
        if self.encoder.kind.together:
            return self._of_pictures(self._together(pixel_values, plans, len(pixel_values)))
        tokens = self._tile_tokens(pixel_values, [grid for plan in plans for grid in plan.patches], words_NT)
        if self.gated is not None:
            return self._of_pictures(self._joined(tokens, plans))
        if self.tiling.ends_rows or len({len(one) for one in tokens}) > 1:
            return torch.cat(self._joined(tokens, plans))
        return torch.stack(tokens)

    def _of_pictures(self, pictures: Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
        """Tokens_VD of all pictures, or, where they stand beside the text, of each."""
        if self.gated is None:
            return torch.cat(list(pictures))
        return torch.stack(list(pictures)) if len({len(one) for one in pictures}) == 1 else pictures

    def picture_tokens(self, inputs: Inputs, at_once: int) -> list[Tensor]:
        """The visual tokens_VD of each picture, on the model's device; ``at_once`` encoder inputs in one pass.

        Raises:
            ValueError: sizes that another number of inputs belongs to.
        """
        plans = self.plans(inputs.sizes)
        if self.encoder.kind.together:
            return self._together(inputs.pixels, plans, at_once)
        grids = [grid for plan in plans for grid in plan.patches]
        tokens: list[Tensor] = []
        for start in range(0, len(inputs.pixels), at_once):
            pixels_NCHW = inputs.pixels[start : start + at_once].to(self.device)
            tokens += self._tile_tokens(pixels_NCHW, grids[start : start + at_once])
        return self._joined(tokens, plans)

    def picture_features(self, inputs: Inputs, at_once: int) -> list[Features]:
        """What the encoder makes of each picture, on the model's device; ``at_once`` encoder inputs in one pass.

        Raises:
            ValueError: sizes that another number of inputs belongs to.
        """
        return self.encoded(inputs.pixels, self.plans(inputs.sizes), at_once)

    def encoded(self, pixels_NCHW: Tensor, plans: Sequence[Plan], at_once: int) -> list[Features]:
        """What the encoder makes of each picture of these plans; ``at_once`` encoder inputs in one pass.

        Raises:
            ValueError: another number of inputs than the plans make.
        """
        if self.encoder.kind.together:
            return self._encoded_together(pixels_NCHW, plans, at_once)
        extra, grids = int(self.encoder.options.keep_cls), [grid for plan in plans for grid in plan.patches]
        if len(grids) != len(pixels_NCHW):
            raise ValueError(f"{len(pixels_NCHW)} encoder inputs, but the pictures' sizes make {len(grids)}")
        tiles: list[Tensor] = []
        for start in range(0, len(pixels_NCHW), at_once):
            part = slice(start, start + at_once)
            features_NPD = self._encoded(pixels_NCHW[part].to(self.device), grids[part])
            tiles += [own[: extra + rows * columns] for own, (rows, columns) in zip(features_NPD, grids[part])]
        starts = accumulate(map(len, plans), initial=0)
        return [Features(tiles[start : start + len(plan)], plan) for start, plan in zip(starts, plans)]

    def feature_rows(self, plan: Plan) -> list[int]:
        """How many features P each of a picture's :attr:`Features.tiles` has."""
        extra = int(self.encoder.options.keep_cls)
        rows = [extra + rows * columns for rows, columns in plan.patches]
        return rows[:1] * self.encoder.kind.tiles(self.encoder.config) if self.fills_up else rows

    def connected(
        self, seen: Sequence[Features], qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
    ) -> Tensor | Sequence[Tensor]:  # fmt: skip
        """Visual tokens of pictures whose features are known, as :meth:`get_image_features` gives them from pixels.

        Each picture's words, where the connector reads any, are told as there; the connector sees all in one pass.

        Raises:
            ValueError: words for another number of pictures, or for a connector that reads none.
        """
        plans = [one.plan for one in seen]
        words_NT = self._words(list(map(len, plans)), qformer_input_ids, qformer_attention_mask)
        if self.encoder.kind.together:
            return self._of_pictures(list(map(self._connected_together, seen)))
        features_NPD = pad_sequence([tile for one in seen for tile in one.tiles], batch_first=True)
        tokens = self._connected(features_NPD, [grid for plan in plans for grid in plan.patches], words_NT)
        return self._of_pictures(self._joined(tokens, plans))

    def read_features(
        self, seen: Sequence[Features], words: Sequence[tuple[int, ...]], at_once: int
    ) -> list[Tensor]:
        """The visual tokens_VD of each picture, whose features are known, read with the ids of its own words.

        ``at_once`` encoder inputs go through the connector in one pass.
        """
        tiles = [(tile, grid, own) for one, own in zip(seen, words, strict=True)
                 for tile, grid in zip(one.tiles, one.plan.patches, strict=True)]  # fmt: skip
        tokens: list[Tensor] = []
        for start in range(0, len(tiles), at_once):
            features, grids, told = zip(*tiles[start : start + at_once])
            ids_NT, mask_NT = words_of(told).values()
            words_NT = self._words([1] * len(told), ids_NT.to(self.device), mask_NT.to(self.device))
            tokens += self._connected(pad_sequence(list(features), batch_first=True), grids, words_NT)
        return self._joined(tokens, [one.plan for one in seen])

    def _words(
        self, counts: Sequence[int], ids_IT: Tensor | None, mask_IT: Tensor | None
    ) -> dict[str, Tensor]:
        """The words for each of a picture's ``counts`` inputs, by the connector's names.

        Raises:
            ValueError: words for another number of pictures, or for a connector that reads none.
        """
        if ids_IT is None:
            return {}
        if not self.connector.reads_text:
            raise ValueError("words were given with the pictures (qformer_input_ids), but the connector reads none")
        if len(ids_IT) != len(counts):
            raise ValueError(f"{len(counts)} pictures, but qformer_input_ids for {len(ids_IT)}")
        mask_IT = torch.ones_like(ids_IT) if mask_IT is None else mask_IT
        times = torch.tensor(counts, device=ids_IT.device)
        told = {"instruction_ids_NT": ids_IT, "instruction_mask_NT": mask_IT}
        return {name: rows_IT.repeat_interleave(times, dim=0) for name, rows_IT in told.items()}

    def _tile_tokens(
        self, pixels_NCHW: Tensor, grids: Sequence[Grid], words_NT: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """Tokens_QD of each encoder input."""
        return self._connected(self._encoded(pixels_NCHW, grids), grids, words_NT or {})

    def _encoded(self, pixels_NCHW: Tensor, grids: Sequence[Grid]) -> Tensor:
        if len(grids) != len(pixels_NCHW):
            raise ValueError(f"{len(pixels_NCHW)} encoder inputs, but the pictures' sizes make {len(grids)}")
        return self.encoder(pixels_NCHW, grids)

    def _connected(self, features_NPD: Tensor, grids: Sequence[Grid], words_NT: Mapping[str, Tensor]) -> list[Tensor]:
        return self.connector.each(features_NPD, grids, int(self.encoder.options.keep_cls), **words_NT)

    @property
    def fills_up(self) -> bool:
        """Whether the gated layers want what fills up behind a picture's tiles, and marks of what is real."""
        return self.gated is not None and self.gated.marked

    def _together(self, pixels_NCHW: Tensor, plans: Sequence[Plan], at_once: int) -> list[Tensor]:
        """Tokens_VD of each picture, whose tiles the tower looks at together; about ``at_once`` tiles in one pass.

        Raises:
            ValueError: another number of inputs than the plans make.
        """
        return list(map(self._connected_together, self._encoded_together(pixels_NCHW, plans, at_once)))

    def _encoded_together(self, pixels_NCHW: Tensor, plans: Sequence[Plan], at_once: int) -> list[Features]:
        if sum(map(len, plans)) != len(pixels_NCHW):
            made = sum(map(len, plans))
            raise ValueError(f"{len(pixels_NCHW)} encoder inputs, but the pictures' sizes make {made}")
        found: list[Features] = []
        start, several = 0, max(1, at_once // self.encoder.kind.tiles(self.encoder.config))
        for first in range(0, len(plans), several):
            group = plans[first : first + several]
            end = start + sum(map(len, group))
            features_IKPD = self.encoder.together(pixels_NCHW[start:end].to(self.device), [one.grid for one in group])
            start = end
            for plan, features_KPD in zip(group, features_IKPD, strict=True):
                found.append(Features(list(features_KPD if self.fills_up else features_KPD[: len(plan)]), plan))
        return found

    def _connected_together(self, seen: Features) -> Tensor:
        """Tokens_VD of a picture whose tiles were looked at together.

        Where the gated layers want them, what fills up behind a picture's tiles has tokens, too, and all are marked.
        """
        grids = seen.plan.patches[:1] * len(seen.tiles)
        tokens = self.connector.each(torch.stack(seen.tiles), grids, int(self.encoder.options.keep_cls))
        if self.fills_up:
            marks = [float(number < len(seen.plan)) for number in range(len(tokens))]
            tokens = [F.pad(one, (0, 1), value=mark) for one, mark in zip(tokens, marks, strict=True)]
        return torch.cat(tokens)

    def _joined(self, tokens: Sequence[Tensor], plans: Sequence[Plan]) -> list[Tensor]:
        """Tokens_VD of each picture from those of its tiles."""
        row_end_D = self.connector.row_end if self.tiling.ends_rows else None
        found, start = [], 0
        for plan in plans:
            found.append(join(plan, tokens[start : start + len(plan)], row_end_D))
            start += len(plan)
        return found

    def embed(self, input_ids_BT: Tensor, image_features_NQD: Tensor | Sequence[Tensor] | None) -> Tensor:
        """Token embeddings_BTD with visual tokens in the place of their placeholders, in row order.

        Raises:
            ValueError: placeholders and visual tokens differ in number; both numbers are given.
        """
        embeddings_BTD = self.get_input_embeddings()(input_ids_BT)
        here_BT = input_ids_BT == self.config.image_token_id
        placeholders = int(here_BT.sum())
        if image_features_NQD is None:
            if placeholders:
                raise ValueError(f"{placeholders} image placeholders in the text, but no picture was given")
            return embeddings_BTD
        if not isinstance(image_features_NQD, Tensor):
            image_features_NQD = torch.cat(list(image_features_NQD))
        features_D = image_features_NQD.reshape(-1, image_features_NQD.shape[-1])
        if self.connector.added:
            # What lies behind is added by the language model's first layers.
            features_D = features_D[:, : embeddings_BTD.shape[-1]]
        if features_D.shape[0] != placeholders:
            raise ValueError(f"{placeholders} image placeholders in the text, but {features_D.shape[0]} visual tokens")
        return embeddings_BTD.masked_scatter(here_BT[..., None], features_D.to(embeddings_BTD.dtype))

    def repeat_pictures(
        self, input_ids_BT: Tensor, times: int, pictures: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Each row's pictures ``times`` over, before the next row's.

        Args:
            input_ids_BT: the rows, with their placeholders.
            times: how often.
            pictures: tensors (of features a list, too) by the names of :data:`PICTURES`.

        Raises:
            ValueError: pictures that do not fit the rows' placeholders.
        """
        marks_B = (input_ids_BT == self.config.image_token_id).sum(1).tolist()
        sizes = pictures.get("image_sizes")
        plans = self.plans(sizes) if sizes is not None else []
        shares = {}
        if plans:
            rows = self._rows_of([self._placeholders(plan) for plan in plans], marks_B)
            shares = {name: [len(row) for row in rows] for name in OF_EACH}
            shares["pixel_values"] = [sum(len(plans[index]) for index in row) for row in rows]
        found: dict[str, Any] = {}
        for name, tensor in pictures.items():
            found[name] = tensor
            if tensor is None:
                continue
            if name not in shares:
                each, left = divmod(sum(marks_B), len(tensor)) if len(tensor) else (1, 0)
                if left or any(marks % each for marks in marks_B):
                    raise ValueError(
                        f"{marks_B} image placeholders in the rows cannot be shared by {len(tensor)} {name}"
                    )
                shares[name] = [marks // each for marks in marks_B]
            if sum(shares[name]) != len(tensor):
                raise ValueError(f"{sum(shares[name])} {name} are needed by the rows, but {len(tensor)} were given")
            if not isinstance(tensor, Tensor):
                upcoming = iter(tensor)
                own = [[next(upcoming) for _ in range(share)] for share in shares[name]]
                found[name] = [one for row in own for _ in range(times) for one in row]
                continue
            blocks = tensor.split(shares[name])
            found[name] = torch.cat([block for block in blocks for _ in range(times)])
        return found

    def _placeholders(self, plan: Plan) -> int:
        extra = int(self.encoder.options.keep_cls)
        return sum(piece for piece in self.config.connector_options().pieces(plan, extra) if isinstance(piece, int))

    @staticmethod
    def _rows_of(placeholders: Sequence[int], marks_B: Sequence[int]) -> list[list[int]]:
        """Which pictures stand in each row."""
        rows: list[list[int]] = []
        upcoming = iter(enumerate(placeholders))
        for marks in marks_B:
            row: list[int] = []
            while marks > 0:
                index, count = next(upcoming, (-1, 0))
                if index < 0 or count > marks:
                    raise ValueError(f"{list(marks_B)} image placeholders in the rows, but pictures of {placeholders}")
                row.append(index)
                marks -= count
            rows.append(row)
        return rows
