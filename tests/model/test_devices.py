"""Devices by name: what is not here is told in one sentence, with what is."""

from __future__ import annotations

import pytest
import torch

from sightling.errors import UserError
from sightling.model.devices import available, find_device

MPS = [] if torch.backends.mps.is_available() else ["mps"]
ABSENT = [*MPS, "cuda:99", "hpu", "vulkan", "npu", "gpu7", "cuda:x", ""]
"""Names of no device of this machine."""


def test_what_is_here_is_found() -> None:
    assert available()[0] == "cpu"
    assert [find_device(name).type for name in available()] == [name.partition(":")[0] for name in available()]
    assert find_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_not_here_is_told_with_what_is(name: str) -> None:
    with pytest.raises(UserError) as error:
        find_device(name)
    assert str(error.value) == f"there is no device {name!r} here; available are: {', '.join(available())}"


def test_a_device_that_does_not_answer_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*size: int, device: torch.device) -> torch.Tensor:
        raise RuntimeError("all of it is taken\nat some line")

    monkeypatch.setattr(torch, "empty", busy)
    with pytest.raises(UserError, match=r"^the device 'cpu' is here, but it does not answer: all of it is taken$"):
        find_device("cpu")


def test_meta_computes_nothing() -> None:
    with pytest.raises(UserError, match="'meta' computes nothing"):
        find_device("meta")
