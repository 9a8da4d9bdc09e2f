"""What every expert offers: words about a picture, for a language model that reads them in the picture's place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sightling.data.sample import Picture
from sightling.errors import UserError
from sightling.parts import Part, make
from sightling.registry import Registry

NONE = "none"
"""What is written where an expert found nothing."""

Name = Literal["caption", "tags", "boxes"]

PARTS: tuple[Name, ...] = ("caption", "tags", "boxes")
"""What an expert's words can be called."""


class ExpertOptions(Part, ABC):
    """An expert's options: a recipe names it in ``model.experts``."""

    @abstractmethod
    def words(self, picture: Picture) -> Mapping[str, str]:
        """What it says of a picture, in order: each of some :data:`PARTS`; ``""`` where it found nothing.

        Raises:
            UserError: it cannot say anything of this picture.
        """


EXPERTS: Registry[type[ExpertOptions]] = Registry("expert")
"""Experts: other models whose words about a picture are handed to the language model."""


def make_experts(told: Sequence[Mapping[str, Any]], where: str) -> tuple[ExpertOptions, ...]:
    """The experts of a recipe's ``experts``.

    Raises:
        UserError: an unknown expert or key, or a wrong value.
    """
    return tuple(make(EXPERTS, one, f"{where}.{number}") for number, one in enumerate(told))


def check_experts(told: Sequence[Mapping[str, Any]], blind: bool, seeing: bool, where: str) -> None:
    """Refuse experts that do not fit what else a model is made of.

    Args:
        told: a recipe's ``experts``.
        blind: whether the connector gives a picture no visual tokens.
        seeing: whether there is an encoder.
        where: what the model's section is called in errors.

    Raises:
        UserError: a wrong expert; neither visual tokens nor experts; an encoder that nothing is made of, or none.
    """
    make_experts(told, f"{where}.experts")
    if blind and not told:
        raise UserError(f"{where}.experts is empty, and a connector of the type 'expert' needs at least one")
    if blind and seeing:
        raise UserError(f"{where}.encoder sees in vain beside a connector of the type 'expert'; use {{type: none}}")
    if not blind and not seeing:
        raise UserError(f"{where}.encoder is of the type 'none', which goes with a connector of the type 'expert' only")


def notes(experts: Sequence[ExpertOptions], picture: Picture) -> str:
    """All that the experts say of a picture: ``caption: ...; tags: ...; boxes: ...``, in one line.

    Raises:
        UserError: one of them cannot say anything of this picture.
    """
    said = [one for expert in experts for one in expert.words(picture).items()]
    return "; ".join(f"{part}: {' '.join(words.split()) or NONE}" for part, words in said)
