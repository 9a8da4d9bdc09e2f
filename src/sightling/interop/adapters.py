"""PEFT's adapters, of our runs and of other programs, merged into the weights of a model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from sightling.data.sample import Picture, question
from sightling.errors import UserError, nearest
from sightling.interop.writing import check_target, save
from sightling.loading import load, quiet
from sightling.model import VisionLanguageModel, VisionLanguageProcessor
from sightling.model.adapters import BEFORE, DOUBLE, QUANTIZE, WEIGHTS
from sightling.model.quantised import KINDS, available, rounded
from sightling.train.checkpoint import load_weights

CONFIG = "adapter_config.json"

KIND = "LORA"
"""What PEFT calls LoRA and DoRA."""

PROMPT = "What is in the picture?"


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        matrices: how many weights the adapter changed.
        difference: the largest difference of logits between the merged and the unmerged model on a sample prompt.
        largest: the largest of those logits, in size.
        dtype: what the merged weights are held in.
        quantize: how the base was rounded that the adapter learnt over; empty where it was not.
        apart: the largest difference of logits between the merged model and the one that learnt, over the rounded base;
            None where it was not rounded, or bitsandbytes is not here to round it again.
    """

    matrices: int
    difference: float
    largest: float
    dtype: torch.dtype
    quantize: str = ""
    apart: float | None = None


def merge(adapter: str | os.PathLike[str], base: str | os.PathLike[str], target: str | os.PathLike[str]) -> Merged:
    """Write the model ``base`` with the adapter in its weights, as a plain model in our own layout.

    Sums are made in float32; the weights are written in the precision that the base has. The logits compared are
    computed in float32, those of the merged model from the weights as they are written, so that the difference is
    what rounding took.

    Args:
        adapter: a folder in PEFT's format, LoRA or DoRA.
        base: the model that it was trained on: a model's folder, ours or in a layout that is known, or a run's.
        target: a new folder.

    Raises:
        UserError: no adapter or no model there, an adapter of another kind or of another model (by the key that does
            not fit), a target that holds something already, or a disk that cannot be written.
    """
    folder, place = Path(adapter), Path(target).absolute()
    check_target(place, None)
    config, weights = read(folder)
    model, processor = load(base, device="cpu")
    held = {name: tensor.dtype for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    wrapped = _around(model.float(), config, weights, folder, base)
    unmerged = _logits(wrapped, processor)
    try:
        plain = wrapped.merge_and_unload(safe_merge=True)
    except ValueError:
        raise UserError(f"the adapter {folder} is damaged: merged weights would not be finite numbers") from None
    tensors = dict([*plain.named_parameters(), *plain.named_buffers()])
    for name, tensor in tensors.items():
        tensor.data = tensor.data.to(held[name]).to(tensor.dtype)
    merged = _logits(plain, processor)
    difference = (merged - unmerged).abs().max()
    for name, tensor in tensors.items():
        tensor.data = tensor.data.to(held[name])
    with quiet():
        save(plain, processor, place)
    matrices = len({name.rsplit(".lora_", 1)[0] for name in weights if ".lora_" in name})
    dtype, (kind, double), apart = plain.dtype, _quantised(folder), None
    # One model at a time.
    del model, wrapped, plain, tensors, tensor
    if kind and available():
        over = _logits(_around(_over(base, weights, kind, double), config, weights, folder, base), processor)
        apart = float((merged - over).abs().max())
    return Merged(matrices, float(difference), float(unmerged.abs().max()), dtype, kind, apart)


def _quantised(folder: Path) -> tuple[str, bool]:
    """How the base was rounded that an adapter of ours learnt over, and whether its scales were, too."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        told = file.metadata() or {}
    kind = told.get(QUANTIZE, "")
    return kind if kind in KINDS else "", told.get(DOUBLE) == "true"


def _over(base: Any, weights: Mapping[str, Tensor], kind: str, double: bool) -> VisionLanguageModel:
    """The base in float32 as an adapter learnt over it: the matrices that it is of are rounded."""
    model = load(base, device="cpu")[0].float()
    for name in sorted({key.removeprefix(BEFORE).split(".lora_")[0] for key in weights if ".lora_" in key}):
        weight = model.get_parameter(f"{name}.weight")
        weight.data = rounded(weight, kind, double)
    return model


def read(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """An adapter's configuration (PEFT's ``LoraConfig``) and its tensors by PEFT's names.

    Raises:
        UserError: there is none, it is damaged, of another kind than LoRA, or pickled.
    """
    from peft import LoraConfig

    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no adapter: there is no {CONFIG}")
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = told["peft_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / CONFIG} is damaged: it does not say its peft_type") from None
    if kind != KIND:
        raise UserError(f"{folder} holds an adapter of the kind {kind!r}; only LoRA and DoRA ({KIND!r}) can be merged")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"the adapter in {folder} lacks {WEIGHTS}; pickled weights (.bin) are not read")
    try:
        return LoraConfig.from_pretrained(str(folder)), load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} is damaged or cut short: {str(error).splitlines()[0]}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / CONFIG} cannot be followed: {str(error).splitlines()[0]}") from None


def _around(model: VisionLanguageModel, config: Any, weights: Mapping[str, Tensor], folder: Path, base: Any) -> Any:
    """The model with the adapter around it.

    Raises:
        UserError: it does not fit; the message names the key.
    """
    from peft import get_peft_model, get_peft_model_state_dict

    known = {name for name, _ in model.named_modules() if name}
    for key in sorted(weights):
        module = re.split(r"\.lora_", key.removeprefix(BEFORE))[0]
        if ".lora_" in key and module not in known:
            raise UserError(
                f"the adapter {folder} does not fit {base}: it is of {module}, which the model has not; "
                f"{nearest(module, _alike(module, known))}"
            )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"the adapter {folder} does not fit {base}: {str(error).splitlines()[0]}") from None
    except (TypeError, re.error) as error:
        # A rank that is a text, a scale that is null, a regular expression that is none.
        raise UserError(f"{folder / CONFIG} has a value that cannot be: {error}") from None
    into = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    load_weights(into, weights, f"the adapter {folder}")
    return wrapped.eval()


def _alike(module: str, known: set[str]) -> set[str]:
    """Modules that end as this one does, or all that stand alone at the top."""
    last = module.rsplit(".", 1)[-1]
    return {name for name in known if name.rsplit(".", 1)[-1] == last} or {name.split(".")[0] for name in known}


@torch.no_grad()
def _logits(model: Any, processor: VisionLanguageProcessor) -> Tensor:
    """The logits_TV of a sample prompt about a small picture, in float32."""
    ramp = Image.linear_gradient("L")
    shown = Picture(image=Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))))
    # What other models would say of a picture is not theirs to say here.
    encoded = processor.encode(question(PROMPT) if processor.experts else question(PROMPT, shown))
    pixels = processor.inputs(*encoded.pictures).tensors() if encoded.pictures else {}
    return model(input_ids=torch.tensor([encoded.input_ids]), use_cache=False, **pixels).logits[0].float()
