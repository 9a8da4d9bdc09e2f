from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, field_validator

from sightling.errors import UserError
from sightling.parts import Part, make, validate
from sightling.registry import Registry

SHADES: Registry[type[Part]] = Registry("shade")


@SHADES.register("dark")
class Dark(Part):
    depth: int = 1


class Inner(Part):
    width: int
    height: int = 1


class Outer(Part):
    """A part with everything that a message has to find its way through."""

    count: int = Field(default=1, ge=1)
    inner: Inner | None = None
    either: Literal["a", "b"] | Inner | None = None
    many: list[Inner] = Field(default_factory=list)
    shade: dict[str, Any] = Field(default_factory=lambda: {"type": "dark"})
    name: str = "x"

    @field_validator("shade")
    @classmethod
    def _shade(cls, value: dict[str, Any]) -> dict[str, Any]:
        make(SHADES, value, "shade")
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value == "bad":
            raise ValueError("bad is no name")
        return value


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"cont": 2}, "here has no key 'cont'; did you mean 'count'?"),
        ({"count": "two"}, "here.count = 'two' is wrong: input should be a valid integer, unable to parse string as an "
                           "integer"),
        ({"count": 0}, "here.count = 0 is wrong: input should be greater than or equal to 1"),
        ({"inner": {}}, "here.inner.width is missing"),
        ({"inner": {"widht": 3}}, "here.inner has no key 'widht'; did you mean 'width'?"),
        ({"inner": {"width": 3, "hight": 3}}, "here.inner has no key 'hight'; did you mean 'height'?"),
        ({"either": "c"}, "here.either = 'c' is wrong: input should be 'a' or 'b'"),
        ({"either": {"width": "w"}}, "here.either.width = 'w' is wrong: input should be a valid integer, unable to "
                                     "parse string as an integer"),
        ({"many": [{"width": 1}, {"wide": 1}]}, "here.many.1 has no key 'wide'; did you mean 'width'?"),
        ({"shade": {"type": "drk"}}, "here.shade.type: there is no shade 'drk'; did you mean 'dark'?"),
        ({"shade": {"type": "dark", "dept": 1}}, "here.shade has no key 'dept'; did you mean 'depth'?"),
        ({"shade": {}}, "here.shade needs a type; known are: dark"),
        ({"name": "bad"}, "here.name: bad is no name"),
        ({"count": "9" * 300 + "x"}, f"here.count = '{'9' * 79}... is wrong: input should be a valid integer, unable "
                                     "to parse string as an integer"),
    ],
)  # fmt: skip
def test_the_first_problem_is_one_sentence_with_its_key(told: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(Outer, told, "here")
    assert str(error.value) == message


def test_what_is_right_becomes_the_part() -> None:
    made = validate(Outer, {"count": 3, "either": {"width": 2}, "many": [{"width": 1}]}, "here")
    assert (made.count, made.either, made.many) == (3, Inner(width=2), [Inner(width=1)])
    assert make(SHADES, {"type": "dark", "depth": 2}, "shade") == Dark(depth=2)


def test_a_type_that_is_no_text_is_named_too() -> None:
    with pytest.raises(UserError, match=r"^shade.type: there is no shade '5'; known are: dark$"):
        make(SHADES, {"type": 5}, "shade")


def test_a_part_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Dark().depth = 2  # type: ignore[misc]
