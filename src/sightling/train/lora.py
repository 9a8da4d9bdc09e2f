"""What a recipe says of an adapter: a part learns a low-rank change of its matrices, which themselves rest."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from sightling.parts import Part

ALL = "all-linear"
"""Every linear layer of the part but the output head."""


def _pattern(told: str | list[str]) -> str | list[str]:
    if not told or (isinstance(told, list) and "" in told):
        raise PydanticCustomError("modules", "it must name linear layers, or be a regular expression")
    if isinstance(told, str):
        try:
            re.compile(told)
        except re.error as error:
            raise PydanticCustomError(
                "modules", f"as a text it is a regular expression, and this is none ({error}); or give a list of names"
            ) from None
    return told


Modules = Annotated[str | list[str], AfterValidator(_pattern)]
"""Names as they end (``[q_proj, v_proj]``), or a regular expression for the whole name within the part."""


class Lora(Part):
    """A low-rank adapter of one part, in the names of PEFT's ``LoraConfig``; ``learning_rate`` is ours.

    Source of the methods: LoRA (Hu et al. 2021, arXiv:2106.09685), ``use_dora`` (Liu et al. 2024, arXiv:2402.09353),
    ``use_rslora`` (Kalajdzievski 2023, arXiv:2312.03732), ``quantize`` and ``double_quantize``, which are ours, too:
    QLoRA (Dettmers et al. 2023, arXiv:2305.14314).
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    type: Literal["lora"] = "lora"
    r: int = Field(default=8, gt=0)
    lora_alpha: int = Field(default=8, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Modules = ALL
    exclude_modules: Modules | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: Literal[True, "gaussian"] = True
    quantize: Literal["nf4", "fp4", "int8"] | None = None
    double_quantize: bool = False
    learning_rate: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _scales_in_blocks(self) -> Lora:
        if self.double_quantize and self.quantize not in ("nf4", "fp4"):
            raise ValueError("double_quantize rounds the scales of 4 bits; say quantize: nf4 or fp4, or leave it out")
        return self

    @property
    def label(self) -> str:
        """For a person: the method, its rank, and in what its matrices are held."""
        held = f", in {self.quantize}" if self.quantize else ""
        return f"{'DoRA' if self.use_dora else 'LoRA'}, r {self.r}{held}"

    def options(self) -> dict[str, Any]:
        """For PEFT's ``LoraConfig``, but which modules it is for."""
        ours = {"type", "target_modules", "exclude_modules", "quantize", "double_quantize", "learning_rate"}
        return self.model_dump(exclude=ours)
