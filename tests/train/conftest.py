from __future__ import annotations

import io

import pytest
from rich.console import Console

import kit


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small tokenizer."""
    folder = tmp_path_factory.mktemp("words")
    kit.tokenizer().save_pretrained(folder)
    return str(folder)
