"""The half of a Q-Former that reads and writes text, needed while its queries learn from captions.

Source of the method: BLIP-2 (Li et al. 2023, arXiv:2301.12597), first stage. Queries and text go through the same
self-attention and the same first norm, which are the connector's; words, places, feed-forward layers and heads of the
text are here. Who sees whom is the mask's to say, one for each of the three things that are learnt.

Legend: ``N`` pairs, ``P`` features of a picture, ``Q`` queries, ``T`` tokens of a text, ``S`` = Q + T, ``D`` the
Q-Former's width, ``J`` joint width, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerIntermediate, Blip2QFormerOutput

from sightling.sight.connectors import QFormer

Sight = Literal["unimodal", "bidirectional", "causal"]
"""Who sees whom; see :func:`seen`."""

TEMPERATURE = 0.07
"""Where the contrast's temperature starts."""

DEVIATION = 0.02
"""Of the normal distribution that new matrices are drawn from, as BERT's are."""

BESIDE = 2
"""Tokens of a text beside its words: the first, which is this module's own, and the last, which ends it."""


def seen(real_NT: Tensor, queries: int, sight: Sight) -> Tensor:
    """seen_NSS over queries, then text: true where a row's position may look at a column's.

    ``unimodal``: queries see queries and text sees text. ``bidirectional``: all see all. ``causal``: queries see
    queries, and a token sees the queries, itself and the tokens before it. Padding (false in ``real_NT``) is never
    looked at.
    """
    place_S = torch.arange(queries + real_NT.shape[1], device=real_NT.device)
    text_S = place_S >= queries
    if sight == "unimodal":
        allowed_SS = text_S[:, None] == text_S
    elif sight == "bidirectional":
        allowed_SS = torch.ones(len(place_S), len(place_S), dtype=torch.bool, device=real_NT.device)
    else:
        # The queries stand before the text, so that what comes before a token is what it sees.
        allowed_SS = ~text_S | (text_S[:, None] & (place_S <= place_S[:, None]))
    return allowed_SS & F.pad(real_NT, (queries, 0), value=True)[:, None]


class TextBranch(nn.Module):
    """The feed-forward part of one layer that text goes through where queries go through the connector's."""

    def __init__(self, config: Blip2QFormerConfig) -> None:
        super().__init__()
        self.intermediate = Blip2QFormerIntermediate(config)
        self.output = Blip2QFormerOutput(config)

    def forward(self, attended_NTD: Tensor) -> Tensor:
        """Two matrices, the sum and a norm."""
        return self.output(self.intermediate(attended_NTD), attended_NTD)


class TextHalf(nn.Module):
    """Words, layers and heads beside a Q-Former; the Q-Former itself is told with each call and not kept.

    Args:
        config: the Q-Former's.
        vocabulary: ``V``, the tokenizer's; two tokens of this module's own come after.
        max_length: the most words of a text.
        joint_width: ``J``, where pictures and texts are compared.
    """

    def __init__(self, config: Blip2QFormerConfig, vocabulary: int, max_length: int, joint_width: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.vocabulary = vocabulary
        # A text begins with one token where it is read and with another where it is written.
        self.first = {"unimodal": vocabulary, "bidirectional": vocabulary, "causal": vocabulary + 1}
        self.word_embeddings = nn.Embedding(vocabulary + 2, width)
        self.position_embeddings = nn.Embedding(max_length + BESIDE, width)
        self.layers = nn.ModuleList(TextBranch(config) for _ in range(config.num_hidden_layers))
        self.vision_projection = nn.Linear(width, joint_width)
        self.text_projection = nn.Linear(width, joint_width)
        self.itm_head = nn.Linear(width, 2)
        self.transform = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=config.layer_norm_eps)
        )
        self.word_bias = nn.Parameter(torch.zeros(vocabulary))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=DEVIATION)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(
        self, connector: QFormer, features_NPD: Tensor, ids_NT: Tensor, real_NT: Tensor, sight: Sight
    ) -> tuple[Tensor, Tensor]:
        """States of queries_NQD and of text_NTD, the text's first token put before it: T is one more than in ids_NT.

        ``real_NT`` is true where a token is no padding.

        Raises:
            ValueError: another number of pictures than of texts, or a text longer than there are places.
        """
        if len(features_NPD) != len(ids_NT):
            raise ValueError(f"{len(features_NPD)} pictures beside {len(ids_NT)} texts")
        places = self.position_embeddings.num_embeddings
        if ids_NT.shape[1] >= places:
            raise ValueError(f"a text of {ids_NT.shape[1] + 1} tokens, but there are {places} places")
        qformer, queries = connector.qformer, connector.query_tokens.shape[1]
        ids_NT = F.pad(ids_NT, (1, 0), value=self.first[sight])
        words_NTD = self.word_embeddings(ids_NT) + self.position_embeddings.weight[: ids_NT.shape[1]]
        queries_NQD = connector.query_tokens.expand(len(ids_NT), -1, -1).to(words_NTD.dtype)
        states_NSD = qformer.dropout(qformer.layernorm(torch.cat([queries_NQD, words_NTD], dim=1)))
        allowed_NSS = seen(F.pad(real_NT, (1, 0), value=True), queries, sight)
        # Added to the scores, as every kind of attention takes it; one head's mask is all heads'.
        hidden = torch.finfo(states_NSD.dtype).min
        mask_NSS = torch.zeros_like(allowed_NSS, dtype=states_NSD.dtype).masked_fill(~allowed_NSS, hidden)[:, None]
        for layer, branch in zip(qformer.encoder.layer, self.layers, strict=True):
            attended_NSD = layer.attention(states_NSD, attention_mask=mask_NSS)
            looking_NQD = attended_NSD[:, :queries]
            if layer.has_cross_attention:
                looking_NQD = layer.crossattention(looking_NQD, encoder_hidden_states=features_NPD)
            looking_NQD = layer.feed_forward_chunk_query(looking_NQD)
            states_NSD = torch.cat([looking_NQD, branch(attended_NSD[:, queries:])], dim=1)
        return states_NSD[:, :queries], states_NSD[:, queries:]

    def similarities(self, queries_NQD: Tensor, text_NTD: Tensor) -> Tensor:
        """Cosines_NN of each picture (row) with each text (column): the text's first token, the query nearest to it."""
        pictures_NQJ = F.normalize(self.vision_projection(queries_NQD), dim=-1)
        texts_NJ = F.normalize(self.text_projection(text_NTD[:, 0]), dim=-1)
        return (pictures_NQJ @ texts_NJ.T).amax(1)

    def matching(self, queries_NQD: Tensor) -> Tensor:
        """Logits_N2 of being no pair and of being one: each query's, averaged."""
        return self.itm_head(queries_NQD).mean(1)

    def next_words(self, text_D: Tensor) -> Tensor:
        """Logits_V of the next word, for states of any leading shape; the matrix is that of the word embeddings."""
        # Its own two tokens begin a text and never come next.
        return F.linear(self.transform(text_D), self.word_embeddings.weight[: self.vocabulary], self.word_bias)
