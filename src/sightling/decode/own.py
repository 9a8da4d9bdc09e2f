"""Decoding with the language model's own weights and few operations a token.

transformers' layers spend most of a small model's time between the products: modules, masks, a cache that is joined
anew, norms and rotations in many pieces. Here queries, keys and values are one product, gate and values another, what
is added to the stream is added by the product that makes it, keys and values are written in place, and heads that
share keys read them where they lie. Behind the last layer's keys and values only each row's last token is computed
further: nothing else is asked.

Source of the methods: grouped queries, Ainslie et al. 2023 (arXiv:2305.13245); rows of unequal length that come and go
between two tokens, Yu et al. 2022, "Orca". The numbers are those of transformers' layers up to rounding.

Legend: ``B`` rows, ``T`` tokens, ``R`` = B x T, ``S`` slots, ``H`` heads, ``G`` key-value heads, ``W`` head width,
``D`` the language model's width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor

from sightling.decode.products import KEPT
from sightling.decode.rows import Rows, Span
from sightling.decode.visual import in_row_order
from sightling.decode.weights import Layer, Weights
from sightling.model.modeling import VisionLanguageModel
from sightling.model.spatial import Position, is_spatial, position_ids

TABLE = 1024
"""Positions in a table of angles at least."""


class OwnDecoder:
    """Runs the language model's layers itself; for models that :func:`~sightling.decode.weights.refusal` passes.

    Args:
        model: the model; a change of its weights is not noticed before :attr:`weights` is asked.
        copied: as :class:`~sightling.decode.weights.Weights` takes it.
        stored: likewise.
    """

    plain = True
    """Every row keeps every token: the end can be taken back, and padding may lie between tokens."""

    def __init__(self, model: VisionLanguageModel, copied: bool | None = None, stored: str = KEPT) -> None:
        self.way = "own" if stored == KEPT else f"own_{stored}"
        # Laid-out weights are kept as long as the model lives, not the other way round.
        self._model = ref(model)
        self.weights = Weights(model, copied, stored)
        self._spatial = is_spatial(model.language_model.config)
        self._table: tuple[Tensor, Tensor] | None = None

    @property
    def model(self) -> VisionLanguageModel:
        """The model.

        Raises:
            RuntimeError: it is gone.
        """
        model = self._model()
        if model is None:
            raise RuntimeError("the model of this decoder is gone")
        return model

    def start(self, rows: int) -> Rows:
        """Empty rows."""
        weights = self.weights
        held = Rows(len(weights.layers), weights.kv_heads, weights.head_width, weights.embedding_VD)
        held.begin(rows)
        return held

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """Logits_BV of last hidden states."""
        return self.weights.head(hidden_BD)

    @torch.inference_mode()
    def feed(
        self,
        rows: Rows,
        tokens: Sequence[Sequence[int]],
        features: Sequence[Tensor] = (),
        positions: Sequence[Sequence[Position] | None] = (),
    ) -> Tensor:
        """Run further tokens behind each row's; hidden_BD of each row's last one.

        Args:
            rows: what is held.
            tokens: each row's further ones, of unequal number perhaps; a row without any stays as it is, and what
                is returned for it means nothing.
            features: visual tokens_VD of the pictures whose placeholders are among them, in row order.
            positions: of each row's tokens, where they do not count on from what is held.

        Raises:
            ValueError: placeholders and visual tokens differ in number; both numbers are given.
        """
        span = rows.open([len(row) for row in tokens])
        ids_BT = torch.tensor([[*row, *[0] * (span.width - len(row))] for row in tokens], device=self.model.device)
        deep: dict[str, Any] = {}
        if span.width == 1 and not features:
            x_RD = F.embedding(ids_BT[:, 0], self.weights.embedding_VD)
        else:
            # Padding must not be taken for a picture.
            ids_BT = self._padded(ids_BT, span)
            shown = in_row_order(features)
            x_BTD = self.model.embed(ids_BT, shown)
            deep = self.model.deepstack(ids_BT, shown, x_BTD.shape[-1])
            x_RD = x_BTD.flatten(0, 1)
        placed = [told or _counted(start, len(row)) for told, start, row in
                  zip(positions or [None] * len(rows), rows.following, tokens)]  # fmt: skip
        angles = self._angles(placed, span.width)
        masks = _Masks(span, x_RD)
        added = deep.get("deepstack_visual_embeds", [])
        for number, layer in enumerate(self.weights.layers):
            # Nothing reads what other tokens than the last become in the last layer, unless something is added there.
            last = span.width > 1 and len(added) <= number == len(self.weights.layers) - 1
            x_RD = self._layer(layer, number, x_RD, rows, span, angles, masks, last=last)
            if number < len(added):
                x_RD[deep["visual_pos_masks"].flatten()] += added[number].to(x_RD.dtype)
        if x_RD.shape[0] > len(rows):
            x_RD = _last(x_RD.view(len(rows), span.width, -1), span)[:, 0]
        rows.close(span, [_behind(own, before) for own, before in zip(placed, rows.following)])
        return self.weights.norm(x_RD)

    def _padded(self, ids_BT: Tensor, span: Span) -> Tensor:
        if self.model.config.image_token_id != 0 or span.even:
            return ids_BT
        sizes_B1 = torch.tensor(span.sizes, device=ids_BT.device)[:, None]
        return ids_BT.masked_fill(torch.arange(span.width, device=ids_BT.device) >= sizes_B1, 1)

    def _layer(
        self, layer: Layer, number: int, x_RD: Tensor, rows: Rows, span: Span, angles: tuple[Tensor, Tensor],
        masks: _Masks, *, last: bool,
    ) -> Tensor:  # fmt: skip
        heads, kv_heads, width = self.weights.heads, self.weights.kv_heads, self.weights.head_width
        count, length = len(rows), span.width
        qkv_BTNW = layer.qkv(layer.before(x_RD)).view(count, length, heads + 2 * kv_heads, width)
        qk_BTNW, v_BTGW = qkv_BTNW[:, :, : heads + kv_heads], qkv_BTNW[:, :, heads + kv_heads :]
        if layer.heads_norm is not None:
            qk_BTNW = layer.heads_norm(qk_BTNW)
        cos_BT1W, sin_BT1W = angles
        qk_BTNW = torch.addcmul(qk_BTNW * cos_BT1W, qk_BTNW.roll(width // 2, -1), sin_BT1W)
        k_BGSW, v_BGSW = rows.write(span, number, qk_BTNW[:, :, heads:], v_BTGW)
        q_BTHW = qk_BTNW[:, :, :heads]
        if last:
            x_RD, q_BTHW, length = _last(x_RD.view(count, length, -1), span)[:, 0], _last(q_BTHW, span), 1
        if length == 1:
            # Heads that share keys ask together: as if they were tokens of one head.
            q_BGMW = q_BTHW.reshape(count, kv_heads, heads // kv_heads, width)
            mask = masks.single(layer.window)
            out_RN = F.scaled_dot_product_attention(q_BGMW, k_BGSW, v_BGSW, attn_mask=mask).reshape(count, -1)
        else:
            mask = masks.block(layer.window)
            out_BHTW = F.scaled_dot_product_attention(
                q_BTHW.transpose(1, 2), k_BGSW, v_BGSW, attn_mask=mask, is_causal=mask is None,
                enable_gqa=heads != kv_heads,
            )  # fmt: skip
            out_RN = out_BHTW.transpose(1, 2).reshape(count * length, -1)
        x_RD = layer.out.added(x_RD, out_RN)
        normed_RD = layer.between(x_RD)
        if layer.block is not None:
            return x_RD + layer.block(normed_RD.view(count, length, -1)).flatten(0, 1)
        assert layer.gate_up is not None and layer.down is not None and layer.activation is not None
        gate_RI, up_RI = layer.gate_up(normed_RD).chunk(2, dim=-1)
        return layer.down.added(x_RD, layer.activation(gate_RI) * up_RI)

    def _angles(self, placed: Sequence[Sequence[Position]], width: int) -> tuple[Tensor, Tensor]:
        """(cos_BT1W, sin_BT1W) of the rows' positions; the first half of the sines is negative, for a rolled head."""
        if any(own and isinstance(own[0], tuple) for own in placed):
            there = [[one if isinstance(one, tuple) else (one, one, one) for one in own] for own in placed]
            told_3BT = position_ids([[*own, *[(0, 0, 0)] * (width - len(own))] for own in there])
            return self._rotation(told_3BT.to(self.model.device))
        told_BT = torch.tensor([[*own, *[0] * (width - len(own))] for own in placed], device=self.model.device)
        most = max((one for own in placed for one in own if isinstance(one, int)), default=0)
        if self._table is None or most >= self._table[0].shape[0]:
            size = max(TABLE, 2 * most)
            all_1T = torch.arange(size, device=self.model.device)[None]
            cos_1T1W, sin_1T1W = self._rotation(all_1T.expand(3, 1, -1) if self._spatial else all_1T)
            self._table = cos_1T1W[0], sin_1T1W[0]
        return self._table[0][told_BT], self._table[1][told_BT]

    def _rotation(self, told: Tensor) -> tuple[Tensor, Tensor]:
        decoder: Any = self.model.get_decoder()
        cos_BTW, sin_BTW = decoder.rotary_emb(self.weights.embedding_VD, told)
        half = cos_BTW.shape[-1] // 2
        signed_BTW = torch.cat([-sin_BTW[..., :half], sin_BTW[..., half:]], dim=-1)
        return cos_BTW.unsqueeze(2), signed_BTW.unsqueeze(2)


class _Masks:
    """What tokens of a span may not see, as additive masks; each is made when it is first asked for."""

    def __init__(self, span: Span, like: Tensor) -> None:
        self._span, self._like = span, like
        self._made: dict[tuple[str, int | None], Tensor | None] = {}

    def block(self, window: int | None) -> Tensor | None:
        """mask_B1TS of all tokens; None where each sees itself and all before it, from slot 0 on."""
        key = "block", window
        if key not in self._made:
            span = self._span
            free = span.level == 0 and (window is None or window >= span.upto)
            offsets_T = torch.arange(span.width, device=self._like.device)
            self._made[key] = None if free else self._mask(self._starts()[:, None] + offsets_T, window)
        return self._made[key]

    def single(self, window: int | None) -> Tensor | None:
        """mask_B11S of each row's last token; None where it sees everything."""
        key = "single", window
        if key not in self._made:
            span = self._span
            free = span.even and (window is None or window >= span.upto)
            sizes_B = torch.tensor(span.sizes, device=self._like.device)
            last_B1 = (self._starts() + sizes_B - 1).clamp_min(0)[:, None] if not free else sizes_B
            self._made[key] = None if free else self._mask(last_B1, window)
        return self._made[key]

    def _starts(self) -> Tensor:
        return torch.tensor(self._span.starts, device=self._like.device)

    def _mask(self, own_BT: Tensor, window: int | None) -> Tensor:
        slots_S = torch.arange(self._span.upto, device=own_BT.device)
        seen_BTS = slots_S <= own_BT[..., None]
        if window is not None:
            seen_BTS &= slots_S > own_BT[..., None] - window
        return self._like.new_zeros(seen_BTS.shape).masked_fill_(~seen_BTS, -torch.inf)[:, None]


def _last(x_BTX: Tensor, span: Span) -> Tensor:
    """Each row's last token, as x_B1X of any further axes."""
    if min(span.sizes) == span.width:
        return x_BTX[:, -1:]
    last_B = torch.tensor([max(size - 1, 0) for size in span.sizes], device=x_BTX.device)
    return x_BTX[torch.arange(len(last_B), device=x_BTX.device), last_B][:, None]


def _counted(start: int, size: int) -> Sequence[Position]:
    return range(start, start + size)


def _behind(placed: Sequence[Position], before: int) -> int:
    """The position of a word behind these."""
    return max((max(one) if isinstance(one, tuple) else one for one in placed), default=before - 1) + 1
