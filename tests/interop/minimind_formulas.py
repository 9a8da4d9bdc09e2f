"""MiniMind-V's published formulas of 2024 and 2026 in plain PyTorch, on tensors under their original names.

Written from the description of the models alone. A prompt is ids_T with its visual tokens, features_QD, in the place
of the ids that are ``mark``; what comes back are logits_TV.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def attend(q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
    """Causal attention; each key-value head serves several heads."""
    several = q_THd.shape[1] // k_TKd.shape[1]
    q, k, v = q_THd.transpose(0, 1), *(one.repeat_interleave(several, 1).transpose(0, 1) for one in (k_TKd, v_TKd))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    scores = scores + torch.full(scores.shape[1:], float("-inf")).triu(1)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def angles(length: int, width: int, theta: float) -> Tensor:
    return torch.outer(torch.arange(length).float(), theta ** -(torch.arange(0, width, 2).float() / width))


def turned_pairs(x_THd: Tensor, theta: float) -> Tensor:
    """2024: channels 2i and 2i + 1 are one complex number."""
    at = angles(len(x_THd), x_THd.shape[-1], theta)[:, None]
    number = torch.view_as_complex(x_THd.unflatten(-1, (-1, 2)))
    return torch.view_as_real(number * torch.polar(torch.ones_like(at), at)).flatten(-2)


def turned_halves(x_THd: Tensor, theta: float) -> Tensor:
    """2026: channels i and i + half are turned together."""
    at = angles(len(x_THd), x_THd.shape[-1], theta)[:, None]
    first, second = x_THd.chunk(2, -1)
    return torch.cat([first * at.cos() - second * at.sin(), second * at.cos() + first * at.sin()], -1)


def embedded(table: Tensor, ids_T: Tensor, mark: int, seen_QD: Tensor) -> Tensor:
    states_TD = table[ids_T].clone()
    states_TD[ids_T == mark] = seen_QD
    return states_TD


def logits_2024(w: Weights, ids_T: Tensor, mark: int, features_QD: Tensor, heads: tuple[int, int]) -> Tensor:
    seen = features_QD @ w["vision_proj.vision_proj.0.weight"].T + w["vision_proj.vision_proj.0.bias"]
    x = embedded(w["tok_embeddings.weight"], ids_T, mark, seen)
    for layer in range(sum(key.endswith(".attention.wq.weight") for key in w)):
        at = f"layers.{layer}."
        normed = rms(x, w[at + "attention_norm.weight"], 1e-5)
        q, k, v = (
            (normed @ w[f"{at}attention.w{one}.weight"].T).unflatten(-1, (count, -1))
            for one, count in zip("qkv", (heads[0], heads[1], heads[1]))
        )
        x = x + attend(turned_pairs(q, 1e4), turned_pairs(k, 1e4), v) @ w[at + "attention.wo.weight"].T
        normed = rms(x, w[at + "ffn_norm.weight"], 1e-5)
        gate, up = (normed @ w[f"{at}feed_forward.w{one}.weight"].T for one in "13")
        x = x + (F.silu(gate) * up) @ w[at + "feed_forward.w2.weight"].T
    return rms(x, w["norm.weight"], 1e-5) @ w["output.weight"].T


def logits_2026(w: Weights, ids_T: Tensor, mark: int, features_QD: Tensor) -> Tensor:
    p = "vision_proj.mlp."
    seen = F.layer_norm(features_QD, features_QD.shape[-1:], w[p + "0.weight"], w[p + "0.bias"])
    seen = F.linear(F.gelu(F.linear(seen, w[p + "1.weight"], w[p + "1.bias"])), w[p + "3.weight"], w[p + "3.bias"])
    x = embedded(w["model.embed_tokens.weight"], ids_T, mark, seen)
    for layer in range(sum(key.endswith(".q_norm.weight") for key in w)):
        at = f"model.layers.{layer}."
        normed = rms(x, w[at + "input_layernorm.weight"], 1e-6)
        width = len(w[at + "self_attn.q_norm.weight"])
        q, k, v = ((normed @ w[f"{at}self_attn.{one}_proj.weight"].T).unflatten(-1, (-1, width)) for one in "qkv")
        q, k = (rms(x, w[f"{at}self_attn.{one}_norm.weight"], 1e-6) for x, one in ((q, "q"), (k, "k")))
        x = x + attend(turned_halves(q, 1e6), turned_halves(k, 1e6), v) @ w[at + "self_attn.o_proj.weight"].T
        normed = rms(x, w[at + "post_attention_layernorm.weight"], 1e-6)
        x = x + inner_2026(w, at + "mlp.", normed)
    return rms(x, w["model.norm.weight"], 1e-6) @ w["lm_head.weight"].T


def inner_2026(w: Weights, at: str, x_TD: Tensor) -> Tensor:
    def one(prefix: str, x: Tensor) -> Tensor:
        gate, up = (x @ w[f"{prefix}{name}_proj.weight"].T for name in ("gate", "up"))
        return (F.silu(gate) * up) @ w[f"{prefix}down_proj.weight"].T

    if at + "gate.weight" not in w:
        return one(at, x_TD)
    # The score of the only expert chosen, over itself, is 1.
    chosen = (x_TD @ w[at + "gate.weight"].T).softmax(-1).argmax(-1).tolist()
    return torch.stack([one(f"{at}experts.{expert}.", row) for expert, row in zip(chosen, x_TD)])
