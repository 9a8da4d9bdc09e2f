"""The one exception for what a user can mend: bad input, told in one sentence.

The command line turns a :class:`UserError` into one line on standard error and exit code 2.
Everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: what is wrong, where (file, record, key), and what would be right.

    The message is one sentence for a person. Nothing is lost or half-written when it is raised.
    """

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name closest to ``name``, as a phrase to end an error with.

    Returns ``"did you mean 'x'?"`` when one is near, else a list of the known names.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known are: " + ", ".join(names)
