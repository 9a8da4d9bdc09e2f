"""What a stage's ``features`` section may say."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from sightling.parts import Part

FOLDER = "features"
"""Where a run's own are, in its folder."""


class FeatureOptions(Part):
    """Whether and where a frozen encoder's features are kept.

    ``cache``: ``true`` keeps them in the run's folder until the run is done; a folder's path keeps them there, for
    other runs as well; ``false`` keeps nothing.
    ``dtype``: what they are kept in. float32 holds whatever an encoder gives exactly; the others round it.
    ``max_gib``: how much all that the folder holds may take; nothing more is kept then.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    cache: bool | str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_gib: float = Field(default=20.0, gt=0)

    @field_validator("cache", mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        if not isinstance(value, bool | str):
            raise ValueError("it must be true, false or a folder's path")
        return value

    @field_validator("cache")
    @classmethod
    def _somewhere(cls, value: bool | str) -> bool | str:
        if value == "":
            raise ValueError("it is empty; it must be true, false or a folder's path")
        return value

    @property
    def rounds(self) -> bool:
        """Whether what is learnt depends on it beyond the order in which sums are rounded."""
        return bool(self.cache) and self.dtype != "float32"
