"""``expert``: a picture has no visual tokens; what other models say of it stands in its place, as words.

Who is asked, and how the words are written, is :mod:`sightling.model.experts`.

Legend: ``N`` encoder inputs, ``P`` features an input, ``D`` width.
"""

from __future__ import annotations

from torch import Tensor

from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.encoders.tower import Grid
from sightling.sight.tiling import Plan


@CONNECTORS.register("expert")
class BlindOptions(ConnectorOptions):
    """No options: there is nothing to connect."""

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """None."""
        return 0

    def pieces(self, plan: Plan, extra: int = 0) -> tuple[int | str, ...]:
        """Nothing stands for the picture itself."""
        return ()

    def build(self, in_width: int, out_width: int) -> Expert:
        """See :class:`Expert`."""
        return Expert(out_width)


class Expert(Connector):
    """Has no weights."""

    def __init__(self, out_width: int) -> None:
        super().__init__()
        self.width = out_width

    def forward(self, features_NPD: Tensor, grid: Grid) -> Tensor:
        """Shapes: features_NPD to no tokens, ``[N, 0, D]``."""
        return features_NPD.new_zeros(len(features_NPD), 0, self.width)
