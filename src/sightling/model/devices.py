"""A device by its name, as a user gives it: the ones that are here, and one sentence about any other."""

from __future__ import annotations

import torch

from sightling.errors import UserError


def available() -> list[str]:
    """The devices that something can be computed on here, ``cpu`` first."""
    found = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if found is None else torch.accelerator.device_count()
    return ["cpu", *(f"{found.type}:{number}" for number in range(count) if found is not None)]


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        UserError: there is none here, or it is ``meta``, which computes nothing.
    """
    try:
        device = torch.device(name)
        # A name alone says nothing: torch knows devices that it was built without, or that are not plugged in.
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        here = available()
        if str(name) in here:
            why = str(error).strip().partition("\n")[0]
            raise UserError(f"the device {str(name)!r} is here, but it does not answer: {why}") from None
        # Each kind fails in words of its own, most of them about how torch was built.
        raise UserError(f"there is no device {str(name)!r} here; available are: {', '.join(here)}") from None
    if device.type == "meta":
        raise UserError("the device 'meta' computes nothing; leave the device out, or name cpu or an accelerator")
    return device
