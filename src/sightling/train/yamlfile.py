"""YAML as a person means it: ``1e-3`` is a number, ``no`` is a word, a key written twice is an error."""

from __future__ import annotations

import re
from typing import Any

import yaml

from sightling.errors import UserError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's booleans and floats.

    YAML 1.1, which PyYAML reads, takes ``no`` and ``off`` for false and ``1e-3`` for a text.
    """


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool",)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: dict[Any, tuple[int, int]] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        mark = key_node.start_mark
        place = mark.line + 1, mark.column
        if isinstance(key, str) and key in seen and seen[key] != place:
            first = seen[key][0]
            raise UserError(f"line {place[0]}: the key {key!r} is written a second time; the first is on line {first}")
        if isinstance(key, str):
            seen[key] = place
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: not YAML, or a key twice; the message says ``where`` and on which line.
    """
    try:
        return yaml.load(text, _Loader)
    except UserError as error:
        raise UserError(f"{where}, {error}") from None
    except (ValueError, RecursionError) as error:
        # A date that is none, a number without digits, brackets without end.
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{where} is not valid YAML: {reason}; put quotes around what is meant as a text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise UserError(f"{where}{line} is not valid YAML: {problem}") from None


def dump_yaml(value: Any) -> str:
    """A YAML text that :func:`parse_yaml` reads back to the same value; keys keep their order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
