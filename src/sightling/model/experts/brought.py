"""``notes``: what the data bring along, such as columns that other models filled, or the small world's detector."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from sightling.data.sample import Picture
from sightling.errors import UserError
from sightling.model.experts.base import EXPERTS, PARTS, ExpertOptions, Name


@EXPERTS.register("notes")
class NotesExpert(ExpertOptions):
    """``say``: which of the caption, the tags and the boxes are read out, in this order."""

    say: tuple[Name, ...] = Field(default=PARTS, min_length=1)

    @field_validator("say")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"{name} is said twice")
        return value

    def words(self, picture: Picture) -> Mapping[str, str]:
        """See the base class.

        Raises:
            UserError: the picture comes without notes.
        """
        if picture.notes is None:
            raise UserError(
                f"picture {picture.name} comes without notes, which the expert 'notes' reads; the data section's key "
                "notes says where they are, and in Python they are Picture(..., notes=Notes(caption=...))"
            )
        return {part: getattr(picture.notes, part) for part in self.say}
