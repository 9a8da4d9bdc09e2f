"""Whether a connector takes whatever a tiling scheme makes of pictures, told before there is one.

Grids are (rows, columns) of an encoder's patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sightling.errors import UserError
from sightling.sight.connectors import ConnectorOptions
from sightling.sight.tiling import TILINGS, Tiling

CHANGES: tuple[dict[str, Any], ...] = ({}, {"unpad": False}, *({"merge": merge} for merge in range(2, 17)))
"""What a scheme may say for itself to fit a connector."""


def check_fit(
    tiling: Tiling, connector: ConnectorOptions, image_size: int, patch_size: int, extra: int, where: str
) -> None:
    """Refuse a tiling scheme of which some picture makes a grid that the connector cannot take.

    Args:
        tiling: the scheme.
        connector: what its tiles' features are given to.
        image_size: side of the encoder's square input in pixels.
        patch_size: side of the encoder's patches in pixels.
        extra: features before each grid's (a kept CLS token).
        where: what the model's section is called in errors.

    Raises:
        UserError: why they do not go together, and which schemes the connector takes.
    """
    try:
        _try(tiling, connector, image_size, patch_size, extra)
    except UserError as error:
        told = ", ".join(_takers(connector, image_size, patch_size, extra))
        able = f"schemes that fit are {told}" if told else "no scheme fits this connector"
        raise UserError(f"{where}.tiling does not fit: {error}; {able}") from None


def _try(tiling: Tiling, connector: ConnectorOptions, image_size: int, patch_size: int, extra: int) -> None:
    connector.tokens(*tiling.unit(image_size, patch_size), extra)
    connector.pieces(tiling.plan(image_size, image_size, image_size, patch_size), extra)


def _takers(connector: ConnectorOptions, image_size: int, patch_size: int, extra: int) -> Iterator[str]:
    """Every scheme that fits, with its defaults, or as near to them as a key of :data:`CHANGES` is."""
    for name in TILINGS:
        kind = TILINGS.get(name)
        for change in CHANGES:
            if not change.keys() <= kind.model_fields.keys():
                continue
            scheme = kind(**change)
            if connector.beside and scheme.ends_rows:
                continue
            try:
                _try(scheme, connector, image_size, patch_size, extra)
            except UserError:
                continue
            yield " ".join([name, *(f"with {key}: {str(value).lower()}" for key, value in change.items())])
            break
