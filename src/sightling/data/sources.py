"""Every data source that a recipe may name. A file imported here registers itself."""

from __future__ import annotations

from sightling.data import files, mixture, series, world
from sightling.data.source import SOURCES, Source, SourceOptions

__all__ = ["SOURCES", "Source", "SourceOptions", "files", "mixture", "series", "world"]
