"""A foreign folder to our model and processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from sightling.errors import UserError
from sightling.interop.base import CONFIG, SPOKEN, TEXTS, Folder, Layout, layout_named, shapes_of
from sightling.interop.keys import Table
from sightling.interop.weights import Source, compare
from sightling.model import VisionLanguageConfig, VisionLanguageModel, VisionLanguageProcessor
from sightling.model.language_models import embedding_rows


class Reader:
    """Reads folders of one layout, for :func:`sightling.load` and the ``from_pretrained`` of our classes.

    Raises:
        UserError: what the functions below refuse.
    """

    def __init__(self, layout: str) -> None:
        self.layout = layout_named(layout)

    def load(self, path: Path, dtype: Any = "auto") -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
        """The model and its processor."""
        config = read_config(self.layout, path)
        # The processor first: what is wrong with it is told before weights are read.
        processor = read_processor(self.layout, path, config)
        model = read_model(self.layout, path, config, dtype)
        if config.origin is not None and "generation_config.json" not in config.origin["files"]:
            model.generation_config.eos_token_id = processor.stop_token_id
            model.generation_config.pad_token_id = processor.pad_token_id
        return model, processor

    def load_config(self, path: Path) -> VisionLanguageConfig:
        """The configuration alone."""
        return read_config(self.layout, path)

    def load_processor(self, path: Path) -> VisionLanguageProcessor:
        """The processor alone."""
        return read_processor(self.layout, path)

    def load_model(self, path: Path, *args: Any, **told: Any) -> Any:
        """The model alone; ``told`` is what transformers' ``from_pretrained`` takes besides."""
        return read_model(self.layout, path, told.pop("config", None), told.pop("dtype", "auto"), **told)


def read_config(layout: Layout, path: Path) -> VisionLanguageConfig:
    """Our configuration of a foreign folder; ``origin`` keeps what the folder says beside.

    Raises:
        UserError: no such model, or one that ours cannot be, by the key that says so.
    """
    folder = Folder(path)
    config = layout.read_config(layout.parse(folder), folder)
    try:
        config.encoder_options(), config.connector_options(), config.tiling_scheme()
    except UserError as error:
        raise UserError(f"{path / CONFIG}: {error}") from None
    files = {name: found for name in SPOKEN if (found := folder.json(name)) is not None}
    files |= {name: {"text": text} for name in TEXTS if (text := folder.text(name)) is not None}
    config.origin = {"layout": layout.name, "config": json.loads(json.dumps(folder.config)), "files": files}
    return config


def read_processor(
    layout: Layout, path: Path, config: VisionLanguageConfig | None = None
) -> VisionLanguageProcessor:
    """Our processor of a foreign folder.

    Raises:
        UserError: no tokenizer, one of another model, or pictures prepared in a way that ours cannot follow.
    """
    config = config or read_config(layout, path)
    tokenizer = layout.tokenizer(path)
    processor = layout.read_processor(config, tokenizer, Folder(path))
    rows, words = embedding_rows(config.get_text_config()), len(tokenizer)
    if words > rows:
        raise UserError(
            f"the tokenizer in {path} belongs to another model: it has {words:,} tokens, the model knows {rows:,}"
        )
    if processor.image_token_id != config.image_token_id:
        raise UserError(
            f"{path}: the image placeholder is token {processor.image_token_id} in the tokenizer, but "
            f"{config.image_token_id} in {CONFIG}"
        )
    processor.find_instruction(path)
    return processor


def read_model(
    layout: Layout, path: Path, config: VisionLanguageConfig | None = None, dtype: Any = "auto", **told: Any
) -> Any:
    """Our model with the weights of a foreign folder, every one of them.

    Raises:
        UserError: weights with a missing, unknown or misshapen key, by its name there.
    """
    config = config or read_config(layout, path)
    if config.origin is None:
        raise UserError(f"the configuration given for {path} does not come from a {layout.name} folder")
    with Source(path) as source:
        state = load_state(layout, config, source, path)
    if dtype == "auto":
        dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    loaded = VisionLanguageModel.from_pretrained(None, config=config, state_dict=state, dtype=dtype, **told)
    spoken = config.origin["files"].get("generation_config.json")
    if spoken is not None:
        generation = GenerationConfig.from_dict({key: spoken[key] for key in spoken if key != "transformers_version"})
        generation.suppress_tokens = sorted({*(generation.suppress_tokens or ()), config.image_token_id})
        model = loaded[0] if told.get("output_loading_info") else loaded
        model.generation_config = generation
    return loaded


def load_state(layout: Layout, config: VisionLanguageConfig, source: Source, path: Path) -> dict[str, Tensor]:
    """The weights of ``source`` under our names; how they were called there is noted in ``config.origin``.

    Raises:
        UserError: a missing, unknown or misshapen key, by its name there.
    """
    ours, head = outline(config)
    table = Table(layout.name, layout.rules(config))
    found = source.shapes()
    names = table.names(ours, list(found))
    expected = shapes_of(table.write(ours, names))
    absent = []
    if head is not None:
        # An output head that is the embeddings may be written twice, or once.
        there = next(iter(table.write({head: ours[head]}, names)))
        if there not in found:
            absent = [there]
            del expected[there], ours[head]
    aside = {key: value for key, make in layout.aside(config).items() if key in found for value in [make()]}
    for key, value in aside.items():
        expected[key] = tuple(value.shape)
    compare(found, expected, path)
    for key, value in aside.items():
        if not torch.equal(source.read(key).to(value.dtype), value):
            raise UserError(f"the weights in {path}: {key} holds other values than those of this layout")
    state = table.read(ours, source.read, names)
    if head is not None and not absent:
        embeddings = next(key for key in state if key.startswith("language_model.") and "embed_tokens" in key)
        if not torch.equal(state[head], state[embeddings]):
            raise UserError(
                f"the weights in {path}: {there} and the embeddings differ, but {CONFIG} says that they are tied"
            )
    assert config.origin is not None
    config.origin.update(names=names, absent=absent, aside=sorted(aside))
    return state


def outline(config: VisionLanguageConfig) -> tuple[dict[str, Tensor], str | None]:
    """Our model's keys, as tensors without memory; and the output head's key where it is the embeddings."""
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    ours = dict(model.state_dict())
    head = model.get_output_embeddings()
    if getattr(head, "weight", None) is not model.get_input_embeddings().weight:
        return ours, None
    name = next(name for name, module in model.named_modules() if module is head)
    return ours, f"{name}.weight"
