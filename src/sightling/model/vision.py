"""How a composed model turns encoder inputs into visual tokens and puts them in the place of placeholders.

Legend: ``B`` rows, ``T`` tokens, ``I`` pictures, ``N`` encoder inputs (tiles), ``C`` = 3, ``H`` ``W`` pixels, ``P``
features an input, ``Q`` visual tokens an input, ``V`` visual tokens in all, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sightling.model.gated import GatedLayers
from sightling.model.inputs import OWN, Inputs
from sightling.sight.encoders import Encoder, Grid
from sightling.sight.joining import join
from sightling.sight.tiling import Plan, Tiling

PICTURES = ("pixel_values", "image_sizes", "image_features")
"""The arguments that hold pictures: as many as the rows have, in their order."""


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
        self, pixel_values: Tensor, image_sizes: Tensor | None = None
    ) -> Tensor | Sequence[Tensor]:
        """Visual tokens of encoder inputs: pixels_NCHW to tokens_NQD, or tokens_VD where they are not all alike.

        Where they stand beside the text, tokens_IVD of the pictures, or tokens_VD of each where they are not all alike.

        Args:
            pixel_values: the encoder inputs of all pictures.
            image_sizes: (height, width) of each picture, and its budget in tiles if it has one, sizes_I2 or _I3;
                it may be left out where every input is a whole square and its tokens follow the last input's.

        Raises:
            ValueError: no sizes for a scheme that needs them, or sizes that another number of inputs belongs to.
        """
        if image_sizes is None:
            if self.tiling.ends_rows:
                raise ValueError("image_sizes is missing: the tiling scheme joins each picture's tiles by its size")
            grid = self.encoder.grid(pixel_values.shape[-2], pixel_values.shape[-1])
            return self.connector(self.encoder(pixel_values), grid)
        plans = self.plans(image_sizes)
        tokens = self._tile_tokens(pixel_values, [grid for plan in plans for grid in plan.patches])
        if self.gated is not None:
            pictures = self._joined(tokens, plans)
            return torch.stack(pictures) if len({len(one) for one in pictures}) == 1 else pictures
        if self.tiling.ends_rows or len({len(one) for one in tokens}) > 1:
            return torch.cat(self._joined(tokens, plans))
        return torch.stack(tokens)

    def picture_tokens(self, inputs: Inputs, at_once: int) -> list[Tensor]:
        """The visual tokens_VD of each picture, on the model's device; ``at_once`` encoder inputs in one pass.

        Raises:
            ValueError: sizes that another number of inputs belongs to.
        """
        plans = self.plans(inputs.sizes)
        grids = [grid for plan in plans for grid in plan.patches]
        tokens: list[Tensor] = []
        for start in range(0, len(inputs.pixels), at_once):
            pixels_NCHW = inputs.pixels[start : start + at_once].to(self.device)
            tokens += self._tile_tokens(pixels_NCHW, grids[start : start + at_once])
        return self._joined(tokens, plans)

    def _tile_tokens(self, pixels_NCHW: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
        """Tokens_QD of each encoder input."""
        if len(grids) != len(pixels_NCHW):
            raise ValueError(f"{len(pixels_NCHW)} encoder inputs, but the pictures' sizes make {len(grids)}")
        features_NPD = self.encoder(pixels_NCHW, grids)
        return self.connector.each(features_NPD, grids, int(self.encoder.options.keep_cls))

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
            shares["image_sizes"] = [len(row) for row in rows]
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
