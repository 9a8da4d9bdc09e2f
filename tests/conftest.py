"""What tests of several packages need. That this file is here makes ``tests/tinymodel.py`` importable everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

# The same examples everywhere and each time: a test that fails for one person fails for all, and none for being slow.
settings.register_profile(
    "sightling", derandomize=True, deadline=None, database=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("sightling")


@pytest.fixture(scope="session", autouse=True)
def shard_indexes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of shards goes to a folder of the tests, whatever the person has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model; nobody changes it."""
    from sightling.loading import quiet
    from tinymodel import tiny

    folder = tmp_path_factory.mktemp("saved") / "model"
    model, processor = tiny()
    with quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


@pytest.fixture
def png(tmp_path: Path) -> Path:
    """A small picture file."""
    path = tmp_path / "red.png"
    Image.new("RGB", (48, 40), (200, 10, 10)).save(path)
    return path
