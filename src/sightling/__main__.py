"""``python -m sightling`` is the ``sightling`` command."""

from sightling.cli import main

main()
