"""Which tokens look at which pictures, where pictures stand beside the text and not in it.

A token looks at a picture whose placeholder it may see: one at or before it, in its own document, and in the trunk or
its own branch; so a sample in a packed row looks at what it looks at alone. Of those it takes all, or the last:
placeholders that stand side by side count as one picture, as in Llama 3.2 Vision's processor, so a picture's tiles
stay together. A token before the first picture looks at nothing, or at all of its own document.

Legend: ``B`` rows, ``T`` tokens, ``K`` tokens with those in the cache, ``M`` pictures a row, ``N`` pictures of all
rows, ``S`` visual tokens a row, ``U`` visual tokens of all rows, ``G`` key-value heads, ``W`` head width, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from sightling.model.mask import TRUNK

NOWHERE = -1
"""The place of no placeholder: what fills a row that has fewer pictures than another."""

KeysValues = tuple[Tensor, Tensor]


class PictureLayer(CacheLayerMixin):
    """What gated layers have seen, as one more layer of a key-value cache: rows are chosen and repeated with the rest.

    Attributes:
        told_BM3: of each picture the place of its placeholder in the cache, its position, and the position at which
            its run of touching placeholders begins.
        owner_BS: the picture of each visual token.
        states: keys_BGSW and values_BGSW of each gated layer, by its number.
    """

    # transformers asks for layers that slide and for layers that do not; this one is of neither kind.
    is_sliding = None
    is_croppable = True
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.told_BM3: Tensor | None = None
        self.owner_BS: Tensor | None = None
        self.states: dict[int, KeysValues] = {}

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: it is filled by :meth:`Looking.close`."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> KeysValues:
        """Not a layer of the text.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("the cache's layer of pictures holds no text")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """No text of before."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """No text."""
        return 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing yet: pictures whose placeholders are gone are forgotten by :meth:`forget_from` in the next pass."""

    def reset(self) -> None:
        """Forget all."""
        self.told_BM3, self.owner_BS, self.states = None, None, {}

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.told_BM3 is not None and self.owner_BS is not None:
            self.told_BM3, self.owner_BS = change(self.told_BM3), change(self.owner_BS)
            self.states = {number: (change(keys), change(values)) for number, (keys, values) in self.states.items()}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows in another order, for beam search."""
        self._change(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row several times."""
        self._change(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """These rows only."""
        self._change(lambda tensor: tensor[indices])

    def forget_from(self, length: int) -> None:
        """Forget pictures whose placeholders are not among the first ``length`` tokens any more."""
        if self.told_BM3 is None or self.owner_BS is None or int(self.told_BM3[..., 0].max()) < length:
            return
        gone_BM = self.told_BM3[..., 0] >= length
        self.told_BM3 = self.told_BM3.masked_fill(gone_BM[..., None], NOWHERE)
        gone_BS = gone_BM.gather(1, self.owner_BS.clamp_min(0)) & (self.owner_BS >= 0)
        self.owner_BS = self.owner_BS.masked_fill(gone_BS, NOWHERE)
        pictures, tokens = _filled(self.told_BM3[..., 0]), _filled(self.owner_BS)
        self.told_BM3, self.owner_BS = self.told_BM3[:, :pictures], self.owner_BS[:, :tokens]
        self.states = {
            number: (keys[:, :, :tokens], values[:, :, :tokens]) for number, (keys, values) in self.states.items()
        }
        if not pictures:
            self.reset()


def _filled(places_BM: Tensor) -> int:
    """How many columns are left when those at the end that are empty in every row are cut off."""
    used = torch.nonzero((places_BM >= 0).any(0))
    return int(used[-1]) + 1 if len(used) else 0


@dataclass
class Looking:
    """What the gated layers of one forward pass look at.

    Attributes:
        tokens_UD: visual tokens that are new in this pass, of all rows in order.
        index_BS: which of them stand in each row; U for none.
        mask_B1TS: which tokens look at which visual tokens, new ones after those of before; None where all look at
            all. Tokens that look at nothing look at everything here, which spares their softmax; ``reached_BT1``
            tells.
        seen_BT1: which tokens see a picture; None where all do.
        reached_BT1: which tokens look at anything: those, and those that look ahead; None where all do.
        told_BM3: of old and new pictures, as in :class:`PictureLayer`.
        owner_BS: likewise.
        held: what was seen in earlier passes.
        fresh: keys and values of old and new visual tokens together, by the number of the gated layer.
    """

    tokens_UD: Tensor | None
    index_BS: Tensor | None
    mask_B1TS: Tensor | None
    seen_BT1: Tensor | None
    reached_BT1: Tensor | None
    told_BM3: Tensor
    owner_BS: Tensor
    held: PictureLayer | None
    fresh: dict[int, KeysValues] = field(default_factory=dict)

    def keys_values(self, number: int, project: Callable[[Tensor], KeysValues]) -> KeysValues:
        """(keys_BGSW, values_BGSW) of a gated layer; ``project`` makes tokens_UD into both as (U, G, W).

        It gives the same however often it is called: a checkpointed layer calls again in the backward pass.
        """
        old = self.held.states.get(number) if self.held is not None else None
        if self.tokens_UD is None or self.index_BS is None:
            if old is None:
                raise ValueError(f"gated layer {number} has nothing to look at")
            self.fresh[number] = old
            return old
        new = [self._in_rows(states_UGW, self.index_BS) for states_UGW in project(self.tokens_UD)]
        if old is not None:
            new = [torch.cat([before.to(after.dtype), after], dim=2) for before, after in zip(old, new, strict=True)]
        self.fresh[number] = new[0], new[1]
        return new[0], new[1]

    @staticmethod
    def _in_rows(states_UGW: Tensor, index_BS: Tensor) -> Tensor:
        nothing = states_UGW.new_zeros(1, *states_UGW.shape[1:])
        return torch.cat([states_UGW, nothing])[index_BS].transpose(1, 2)

    def close(self, cache: Cache | None, layers: int) -> None:
        """After the pass: see that every gated layer looked, and let the cache hold what they saw.

        Raises:
            RuntimeError: the language model did not hand this object to its layers.
        """
        if len(self.fresh) != layers:
            raise RuntimeError(f"{len(self.fresh)} of {layers} gated layers looked at the pictures")
        if cache is None:
            return
        if self.held is None:
            self.held = PictureLayer()
            cache.layers.append(self.held)
        self.held.told_BM3, self.held.owner_BS, self.held.states = self.told_BM3, self.owner_BS, dict(self.fresh)


def picture_layer(cache: Cache | None) -> PictureLayer | None:
    """A cache's layer of pictures, if it has one."""
    found = [layer for layer in cache.layers if isinstance(layer, PictureLayer)] if cache is not None else []
    return found[0] if found else None


def look(
    here_BT: Tensor,
    features: Tensor | Sequence[Tensor] | None,
    *,
    last: bool,
    ahead: bool = False,
    real_U: Tensor | None = None,
    position_ids_BT: Tensor | None = None,
    attention_mask: Any = None,
    documents: tuple[Tensor, Tensor] | None = None,
    cache: Cache | None = None,
) -> Looking | None:
    """What this pass's tokens look at; None where no row has a picture.

    Args:
        here_BT: where placeholders stand.
        features: visual tokens of the pictures in row order: tokens_NQD, tokens_QD of each, or of the only one.
        last: whether a token looks at the last picture only.
        ahead: whether a token that sees no picture looks at all that are new in its row, those behind it.
        real_U: which visual tokens are of a picture; the others fill up, and only who looks ahead looks at them.
        position_ids_BT: positions; left out, tokens are counted, with those in the cache.
        attention_mask: what the language model gets; a mask_B1TK (or one a kind of layer) also says who sees whose
            placeholder.
        documents: document_ids_BT and branch_ids_BT of packed rows, which say it in its place.
        cache: the language model's, which holds what was seen before.

    Raises:
        ValueError: placeholders and pictures differ in number; both numbers are given.
    """
    past = int(cache.get_seq_length()) if cache is not None else 0
    held = picture_layer(cache)
    if held is not None:
        held.forget_from(past)
    count = int(here_BT.sum())
    tokens_UD, sizes = _flat(features, count)
    known = held is not None and held.told_BM3 is not None
    if not count and not known:
        return None
    positions_BT = _positions(here_BT, position_ids_BT, past)
    places_BM, new_BM = _placeholders(here_BT)
    # Nothing is taken from the place of no placeholder; it only must exist.
    taken_BM = places_BM.clamp_min(0)
    told_BM3 = torch.stack([places_BM + past, positions_BT.gather(1, taken_BM), positions_BT.gather(1, taken_BM)], -1)
    told_BM3 = told_BM3.masked_fill(~new_BM[..., None], NOWHERE)
    before = 0
    if held is not None and held.told_BM3 is not None:
        before = held.told_BM3.shape[1]
        told_BM3 = torch.cat([held.told_BM3, told_BM3], dim=1)
    may_BTM = _may_see(told_BM3[..., 0], here_BT.shape[1], past, attention_mask, documents)
    if last:
        told_BM3 = _joined(told_BM3, may_BTM, taken_BM, before)
        may_BTM = _only_last(told_BM3, may_BTM)
    index_BS, shown_BS = _laid_out(new_BM, sizes, before)
    owner_BS = shown_BS
    if real_U is not None:
        real_BS = torch.nn.functional.pad(real_U, (0, 1))[index_BS]
        owner_BS = owner_BS.masked_fill(~real_BS, NOWHERE)
    if held is not None and held.owner_BS is not None:
        owner_BS, shown_BS = (torch.cat([held.owner_BS, one_BS], dim=1) for one_BS in (owner_BS, shown_BS))
    mask_BTS = _of_owners(may_BTM, owner_BS)
    seen_BT1 = reached_BT1 = mask_BTS.any(-1, keepdim=True)
    if ahead:
        every_BTM = _own(told_BM3[..., 0], here_BT.shape[1], documents)
        mask_BTS = mask_BTS | (_of_owners(every_BTM, shown_BS) & ~seen_BT1)
        reached_BT1 = mask_BTS.any(-1, keepdim=True)
    mask_B1TS = (mask_BTS | ~reached_BT1)[:, None]
    seen, reached = (None if bool(one_BT1.all()) else one_BT1 for one_BT1 in (seen_BT1, reached_BT1))
    mask = None if bool(mask_B1TS.all()) else mask_B1TS
    return Looking(tokens_UD, index_BS if count else None, mask, seen, reached, told_BM3, owner_BS, held)


def _of_owners(may_BTM: Tensor, owner_BS: Tensor) -> Tensor:
    """may_BTS: what holds of a picture holds of its tokens; of those of no picture nothing does."""
    nobody = may_BTM.shape[2]
    index_B1S = owner_BS.masked_fill(owner_BS < 0, nobody)[:, None]
    return torch.nn.functional.pad(may_BTM, (0, 1)).gather(2, index_B1S.expand(-1, may_BTM.shape[1], -1))


def _flat(features: Tensor | Sequence[Tensor] | None, count: int) -> tuple[Tensor | None, list[int]]:
    """(tokens_UD, how many of them each of ``count`` pictures has)."""
    if features is None:
        if count:
            raise ValueError(f"{count} image placeholders in the text, but no picture was given")
        return None, []
    if isinstance(features, Tensor) and features.dim() == 2:
        if count != 1:
            raise ValueError(f"{count} image placeholders in the text, but the {len(features)} tokens of one picture")
        features = [features]
    if len(features) != count:
        raise ValueError(f"{count} image placeholders in the text, but {len(features)} pictures")
    return torch.cat(list(features)), [len(tokens_QD) for tokens_QD in features]


def _positions(here_BT: Tensor, position_ids_BT: Tensor | None, past: int) -> Tensor:
    if position_ids_BT is None:
        position_ids_BT = torch.arange(past, past + here_BT.shape[1], device=here_BT.device)[None]
    return position_ids_BT.expand(here_BT.shape[0], -1)


def _placeholders(here_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(where the placeholders of each row stand_BM, in order, which of these are there at all)."""
    length = here_BT.shape[1]
    most = int(here_BT.sum(1).max()) if length else 0
    places_BT = torch.arange(length, device=here_BT.device).expand_as(here_BT).masked_fill(~here_BT, length)
    places_BM = places_BT.sort(dim=1).values[:, :most]
    return places_BM.masked_fill(places_BM == length, NOWHERE), places_BM < length


def _may_see(
    places_BM: Tensor, length: int, past: int, attention_mask: Any, documents: tuple[Tensor, Tensor] | None
) -> Tensor:
    """may_BTM: whether a token may see a placeholder."""
    own_T1 = torch.arange(past, past + length, device=places_BM.device)[:, None]
    may_BTM = _own(places_BM, length, documents) & (places_BM[:, None] <= own_T1)
    if documents is not None:
        return may_BTM
    if isinstance(attention_mask, Mapping):
        if "full_attention" not in attention_mask:
            raise ValueError(f"masks for layers of kinds {sorted(attention_mask)} do not say which pictures are seen")
        attention_mask = attention_mask["full_attention"]
    if attention_mask is not None and attention_mask.dim() == 4:
        mask_BTK = attention_mask[:, 0].expand(places_BM.shape[0], -1, -1)
        chosen_BTM = mask_BTK.gather(2, places_BM.clamp_min(0)[:, None].expand(-1, mask_BTK.shape[1], -1))
        return may_BTM & (chosen_BTM if chosen_BTM.dtype == torch.bool else chosen_BTM == 0)
    return may_BTM


def _own(places_BM: Tensor, length: int, documents: tuple[Tensor, Tensor] | None) -> Tensor:
    """own_BTM: whether a placeholder, before a token or behind it, is one of its row, its document and its path."""
    there_B1M = (places_BM >= 0)[:, None]
    if documents is None:
        return there_B1M.expand(-1, length, -1)
    told = [ids_BT.gather(1, places_BM.clamp_min(0))[:, None] for ids_BT in documents]
    document_BT1, branch_BT1 = (ids_BT[..., None] for ids_BT in documents)
    return there_B1M & (document_BT1 == told[0]) & ((told[1] == TRUNK) | (branch_BT1 == told[1]))


def _joined(told_BM3: Tensor, may_BTM: Tensor, taken_BM: Tensor, before: int) -> Tensor:
    """The same, where each new picture's run begins with that of the picture whose placeholder its own touches."""
    told_BM3 = told_BM3.clone()
    positions_BM, starts_BM = told_BM3[..., 1], told_BM3[..., 2]
    for number in range(taken_BM.shape[1]):
        own = before + number
        sees_BM = may_BTM.gather(1, taken_BM[:, number, None, None].expand(-1, 1, may_BTM.shape[2]))[:, 0]
        touches_BM = sees_BM & (positions_BM == positions_BM[:, own, None] - 1)
        start_B = starts_BM.masked_fill(~touches_BM, NOWHERE).max(1).values
        starts_BM[:, own] = torch.where(touches_BM.any(1), start_B, starts_BM[:, own])
    return told_BM3


def _only_last(told_BM3: Tensor, may_BTM: Tensor) -> Tensor:
    """Of the pictures that a token may see those of the last run."""
    positions_BM, starts_BM = told_BM3[..., 1], told_BM3[..., 2]
    last_BT = positions_BM[:, None].expand_as(may_BTM).masked_fill(~may_BTM, NOWHERE).argmax(-1)
    return may_BTM & (positions_BM[:, None] >= starts_BM.gather(1, last_BT)[..., None])


def _laid_out(new_BM: Tensor, sizes: Sequence[int], before: int) -> tuple[Tensor, Tensor]:
    """(index_BS, owner_BS) of new visual tokens: their places among all rows' and their pictures' in the row."""
    rows, device = new_BM.shape[0], new_BM.device
    sizes_BM = torch.zeros(new_BM.shape, dtype=torch.long, device=device)
    sizes_BM[new_BM] = torch.tensor(sizes, dtype=torch.long, device=device)
    most = int(sizes_BM.sum(1).max()) if sizes else 0
    number_S = torch.arange(most, device=device).expand(rows, -1).contiguous()
    ends_BM = sizes_BM.cumsum(1)
    ends_B = sizes_BM.sum(1)
    there_BS = number_S < ends_B[:, None]
    starts_B = ends_B.cumsum(0) - ends_B
    index_BS = (number_S + starts_B[:, None]).masked_fill(~there_BS, sum(sizes))
    owner_BS = torch.searchsorted(ends_BM, number_S, right=True) + before if most else number_S
    return index_BS, owner_BS.masked_fill(~there_BS, NOWHERE)
