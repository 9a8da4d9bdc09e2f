"""The configuration of a composed vision-language model, in transformers' form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from sightling.foreign import layout_of, reader
from sightling.parts import make, validate
from sightling.sight.connectors import CONNECTORS, ConnectorOptions
from sightling.sight.encoders import EncoderOptions
from sightling.sight.tiling import TILINGS, Tiling


class VisionLanguageConfig(PreTrainedConfig):
    """A tower, a connector and a causal language model, and how they are put together.

    Attributes:
        vision_config: the transformers configuration of the image tower.
        text_config: the transformers configuration of the causal language model.
        encoder: how the tower is used (:class:`sightling.sight.encoders.EncoderOptions`).
        connector: ``{"type": name, ...}`` of a registered connector.
        tiling: ``{"type": name, ...}`` of a registered tiling scheme.
        image_token_id: the placeholder that a visual token replaces.
        origin: for a model read from a foreign layout, what its files said beside; it is written back with it.
    """

    model_type = "sightling"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 (transformers' contract)

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    encoder: dict | None = None
    connector: dict | None = None
    tiling: dict | None = None
    image_token_id: int = 0
    origin: dict | None = None
    tie_word_embeddings: bool = False

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """As saved; a foreign layout that is known is read.

        Raises:
            UserError: a foreign model that ours cannot be.
        """
        foreign = layout_of(path)
        if foreign is not None:
            return reader(foreign).load_config(Path(path))
        return super().from_pretrained(path, *args, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        """Sub-configurations given as dictionaries become objects of their own class."""
        if isinstance(self.vision_config, dict):
            self.vision_config = config_from_dict(self.vision_config)
        if isinstance(self.text_config, dict):
            self.text_config = config_from_dict(self.text_config)
        if self.text_config is not None:
            self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        self.encoder = dict(self.encoder or {})
        self.connector = dict(self.connector or {"type": "linear"})
        self.tiling = dict(self.tiling or {"type": "single"})
        super().__post_init__(**kwargs)

    def encoder_options(self) -> EncoderOptions:
        """``encoder``, validated."""
        return validate(EncoderOptions, self.encoder or {}, "encoder")

    def connector_options(self) -> ConnectorOptions:
        """``connector``, validated by the part it names."""
        return make(CONNECTORS, self.connector or {}, "connector")

    def tiling_scheme(self) -> Tiling:
        """``tiling``, validated by the scheme it names."""
        return make(TILINGS, self.tiling or {}, "tiling")


def config_from_dict(values: dict) -> PreTrainedConfig:
    """A transformers configuration from its dictionary; ``model_type`` picks the class exactly."""
    rest = dict(values)
    return AutoConfig.for_model(rest.pop("model_type"), **rest)
