from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sightling.errors import UserError
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS
from sightling.sight.connectors.positions import placed, sincos_positions


def test_each_place_has_its_own_waves_row_by_row() -> None:
    both = sincos_positions(3, 5, 16)
    assert both.shape == (15, 16)
    assert (torch.cdist(both, both) + torch.eye(15)).min() > 0.05
    grid = both.view(3, 5, 16)
    # The first half tells the column, the second the row.
    assert torch.equal(grid[0, :, :8], grid[2, :, :8])
    assert torch.equal(grid[:, 0, 8:], grid[:, 4, 8:])
    assert grid[0, 1, 0] == pytest.approx(0.841471, abs=1e-5)
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        sincos_positions(2, 2, 6)


@pytest.mark.parametrize("extra", [0, 1])
def test_places_are_added_to_the_tokens_of_the_grid(extra: int) -> None:
    torch.manual_seed(0)
    with_places = make(CONNECTORS, {"type": "mlp", "positions": True}, "connector").build(8, 16)
    plain = make(CONNECTORS, {"type": "mlp"}, "connector").build(8, 16)
    plain.load_state_dict(with_places.state_dict())
    features = torch.randn(2, 6 + extra, 8)
    normed = F.rms_norm(plain(features, (2, 3)), (16,), eps=1e-6).detach()
    added = with_places(features, (2, 3)).detach() - normed
    assert torch.allclose(added[:, extra:], sincos_positions(2, 3, 16).expand(2, -1, -1), atol=1e-5)
    assert added[:, :extra].abs().sum() < 1e-4


def test_a_token_that_has_grown_does_not_drown_its_place() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 6, 16)
    assert torch.allclose(placed(tokens, (2, 3)), placed(1000 * tokens, (2, 3)), atol=1e-4)
    assert placed(torch.zeros(1, 6, 16), (2, 3)).isfinite().all()


def test_a_width_that_no_waves_fill_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of 4; this one has 6"):
        make(CONNECTORS, {"type": "mlp", "positions": True}, "connector").build(8, 6)
