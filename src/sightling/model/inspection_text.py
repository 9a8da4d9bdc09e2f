"""What ``sightling inspect`` prints: the tiles, their tokens, the prompt piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator

from sightling.model.inspection import Inspection, Piece, Region
from sightling.sight.tiling.base import Size

COLUMNS = ("tile", "place", "crop", "scaled", "canvas", "patches", "tokens")


def lines(found: Inspection) -> Iterator[str]:
    """What is printed, line by line, never folded or shortened: a prompt is there to be copied from."""
    plan = found.plan
    options = ", ".join(f"{key}: {json.dumps(value)}" for key, value in found.scheme.items() if key != "type")
    yield found.scheme["type"] + (f" ({options})" if options else "")
    yield f"picture {_size(plan.picture)}, as planned {_size(plan.canvas)} in {plan.grid[0]} x {plan.grid[1]} tiles"
    yield ""
    yield from _table(found)
    yield ""
    if found.prompt is None:
        yield f"no prompt: {found.no_prompt}"
        return
    yield "prompt, text in quotes:"
    for piece in found.prompt:
        yield f"  {piece_line(piece)}"
    yield ""
    yield f"{found.text_tokens:,} text tokens + {found.total:,} visual tokens = {found.text_tokens + found.total:,}"


def _table(found: Inspection) -> Iterator[str]:
    rows = [COLUMNS]
    for tile in found.tiles:
        patches = f"{tile.patches[0]} x {tile.patches[1]}"
        sizes = (_region(tile.crop), _size(tile.scaled), _size(tile.canvas))
        rows.append((str(tile.number), tile.place, *sizes, patches, f"{tile.tokens:,}"))
    rows += [("", name, "", "", "", "", f"{count:,}") for name, count in found.beside.items()]
    rows.append(("", "visual tokens", "", "", "", "", f"{found.total:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        # Numbers stand on the right of their column.
        cells = [
            cell.rjust(width) if name in ("tile", "tokens") else cell.ljust(width)
            for name, cell, width in zip(COLUMNS, row, widths, strict=True)
        ]
        yield "  ".join(cells)


def piece_line(piece: Piece) -> str:
    """A control token bare, with its number where it is repeated; text in quotes as JSON writes it.

    Nobody's text can look like a control token, so the prompt can be put together again from its lines. Text that
    its tokens do not spell is followed by their ids.
    """
    if piece.control:
        return piece.text + (f" x {piece.times}" if piece.times > 1 else "")
    quoted = json.dumps(piece.text, ensure_ascii=False)
    return quoted if piece.spelt else f"{quoted} = tokens {list(piece.ids)}"


def _size(size: Size) -> str:
    return f"{size[0]:,} x {size[1]:,}"


def _region(crop: Region | None) -> str:
    if crop is None:
        return "filling only"
    left, top, right, bottom = (f"{edge:g}" if edge < 1e5 else f"{edge:.0f}" for edge in crop)
    return f"{left}, {top} to {right}, {bottom}"
