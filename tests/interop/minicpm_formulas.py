"""MiniCPM-V 2.6's published formulas in plain PyTorch, on tensors under their original names.

Written from the paper (Yao et al. 2024, arXiv:2408.01800) and the description of the model alone: slices, a SigLIP
with positions by buckets, the resampler. The language model is transformers' Qwen2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Weights = Mapping[str, Tensor]
Size = tuple[int, int]


def rounded(length: float, unit: int) -> int:
    return max(round(length / unit) * unit, unit)


def fitted(width: float, height: float, scale: int, patch: int) -> Size:
    ratio = width / height
    high = int(scale / math.sqrt(ratio))
    return rounded(int(high * ratio), patch), rounded(high, patch)


def grid_of(width: int, height: int, scale: int, most: int) -> Size | None:
    """(columns, rows)."""
    multiple = min(math.ceil(width * height / scale**2), most)
    if multiple <= 1:
        return None
    counts = [count for count in (multiple - 1, multiple, multiple + 1) if 1 < count <= most]
    grids = [(columns, count // columns) for count in counts for columns in range(1, count + 1) if count % columns == 0]
    return min(grids, key=lambda grid: abs(math.log(width / height) - math.log(grid[0] / grid[1])))


def cut(image: Image.Image, scale: int, most: int, patch: int) -> list[Image.Image]:
    """The overview, then the slices row by row."""
    width, height = image.size
    grid = grid_of(width, height, scale, most)
    overview = image.resize(fitted(width, height, scale, patch), Image.Resampling.BICUBIC)
    if grid is None:
        return [overview]
    columns, rows = grid
    cell = fitted(rounded(width, columns) / columns, rounded(height, rows) / rows, scale, patch)
    refined = image.resize((cell[0] * columns, cell[1] * rows), Image.Resampling.BICUBIC)
    corners = [(column * cell[0], row * cell[1]) for row in range(rows) for column in range(columns)]
    return [overview, *(refined.crop((x, y, x + cell[0], y + cell[1])) for x, y in corners)]


def normalised(image: Image.Image) -> Tensor:
    """pixels_CHW of -1 to 1."""
    return torch.from_numpy((np.asarray(image).astype(np.float32) / 255 - 0.5) / 0.5).permute(2, 0, 1)


def prompt(pictures: Sequence[Image.Image], question: str, scale: int, most: int, queries: int) -> str:
    """Pictures with their numbers, then the question, each on a line of its own."""
    lines = []
    for number, image in enumerate(pictures):
        seen = "<unk>" * queries
        text = f"<image_id>{number}</image_id><image>{seen}</image>"
        grid = grid_of(*image.size, scale, most)
        if grid is not None:
            text += "\n".join([f"<slice>{seen}</slice>" * grid[0]] * grid[1])
        lines.append(text)
    said = "\n".join([*lines, question])
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
    )


def places(rows: int, columns: int, side: int) -> Tensor:
    bounds = torch.arange(1 / side, 1.0, 1 / side)

    def along(count: int) -> Tensor:
        fractions = torch.arange(0, 1 - 1e-6, 1 / torch.tensor(count, dtype=torch.int32))
        return torch.bucketize(fractions, bounds, right=True)

    return (along(rows)[:, None] * side + along(columns)).flatten()


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (one.unflatten(-1, (heads, -1)).transpose(0, 1) for one in (q, k, v))
    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1)


def tower(w: Weights, pixels_CHW: Tensor, patch: int, side: int, heads: int) -> Tensor:
    """The last layer's features_PD behind its norm, of one input."""
    rows, columns = pixels_CHW.shape[1] // patch, pixels_CHW.shape[2] // patch
    kernel = w["vpm.embeddings.patch_embedding.weight"]
    laid = F.conv2d(pixels_CHW[None], kernel, w["vpm.embeddings.patch_embedding.bias"], stride=patch)
    x = laid[0].flatten(1).T + w["vpm.embeddings.position_embedding.weight"][places(rows, columns, side)]
    for layer in range(sum(key.endswith("layer_norm1.weight") for key in w)):
        at = f"vpm.encoder.layers.{layer}."
        normed = norm(w, at + "layer_norm1", x)
        q, k, v = (linear(w, f"{at}self_attn.{one}_proj", normed) for one in "qkv")
        x = x + linear(w, at + "self_attn.out_proj", attend(q, k, v, heads))
        inner = F.gelu(linear(w, at + "mlp.fc1", norm(w, at + "layer_norm2", x)), approximate="tanh")
        x = x + linear(w, at + "mlp.fc2", inner)
    return norm(w, "vpm.post_layernorm", x)


def waves(places_P: Tensor, width: int) -> Tensor:
    omega = 1.0 / 10000 ** (torch.arange(width // 2).double() / (width / 2))
    angles = places_P.double()[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def resampler(w: Weights, features_PD: Tensor, rows: int, columns: int) -> Tensor:
    """tokens_QD: the first half of a place's channels tells the column, the second the row; 128 a head."""
    width = w["resampler.query"].shape[1]
    down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    place = torch.cat([waves(across.flatten(), width // 2), waves(down.flatten(), width // 2)], 1)
    values = norm(w, "resampler.ln_kv", features_PD @ w["resampler.kv_proj.weight"].T)
    queries = norm(w, "resampler.ln_q", w["resampler.query"])
    matrices, biases = w["resampler.attn.in_proj_weight"].chunk(3), w["resampler.attn.in_proj_bias"].chunk(3)
    told = zip((queries, values + place, values), matrices, biases, strict=True)
    q, k, v = (F.linear(one, matrix, bias) for one, matrix, bias in told)
    seen = linear(w, "resampler.attn.out_proj", attend(q, k, v, width // 128))
    return norm(w, "resampler.ln_post", seen) @ w["resampler.proj"]
