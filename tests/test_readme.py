"""What the READMEs and the documents show exists: commands, options, recipes, keys, files, names."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import sightling
from sightling import cli
from sightling.data.formats import FORMATS
from sightling.data.source import SOURCES
from sightling.data.texts import TEXTS
from sightling.parts import make
from sightling.registry import Registry
from sightling.sight.connectors import CONNECTORS
from sightling.sight.tiling import TILINGS
from sightling.train.checked import check_recipe
from sightling.train.features.options import FeatureOptions
from sightling.train.lora import Lora
from sightling.train.objectives import OBJECTIVES
from sightling.train.recipe import Recipe, RunWide, Trains, TrainStage, load_recipe, packaged, parse_recipe
from sightling.train.schedule import SCHEDULES, ScheduleOptions
from sightling.train.steps import STEPS
from sightling.train.yamlfile import parse_yaml

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
DOCUMENTS = (
    *READMES, "CONTRIBUTING.md", "docs/architecture.md", "docs/data.md", "docs/decoding.md", "docs/recipes.md",
    "docs/planning.md", "docs/studies.md",
)  # fmt: skip

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:src|tests|docs|benchmarks|\.ci)/[\w./-]+)`")
PLACEHOLDER = re.compile(r"[A-Z]+")
MADE = ("runs/", ".venv/")
"""Folders that commands make, so that a fresh checkout lacks them."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return FENCE.findall(text_of(name))


def prose(name: str) -> str:
    return FENCE.sub("", text_of(name))


def commands(*names: str) -> list[list[str]]:
    """Every ``sightling ...`` line of the documents' shell blocks, split into words."""
    found = []
    for name in names:
        for language, content in blocks(name):
            if language == "sh":
                lines = [line.partition("  #")[0] for line in content.splitlines()]
                found += [shlex.split(line) for line in lines if line.startswith("sightling ")]
    return found


def first_column(name: str, heading: str) -> list[str]:
    """What stands in backquotes in the first cells of the table under a heading."""
    section = text_of(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)`", section, re.M)


def command_line(words: list[str]) -> None:
    """Parse a command as the program would, without running it; what it does not know raises."""
    assert words[1] in cli.COMMANDS, f"there is no command {words[1]!r}: {' '.join(words)}"
    command: Any = typer.main.get_command(importlib.import_module(f"sightling.cli.{words[1]}").app)
    rest = words[2:]
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}: {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[1], list(rest))


def test_both_readmes_show_the_same_blocks_in_the_same_order() -> None:
    english, chinese = (blocks(name) for name in READMES)
    assert english == chinese
    assert english[0] == ("sh", "make quickstart\nmake test\n")


def test_both_readmes_have_the_same_shape() -> None:
    def shape(name: str) -> list[str]:
        lines = prose(name).splitlines()
        kinds = {"#": "heading", "-": "item", "|": "row", "!": "picture", "<": "marker"}
        return [kinds[line[0]] for line in lines if line[:1] in kinds]

    assert shape(READMES[0]) == shape(READMES[1])
    names = [re.findall(r"^\| `([^`]+)`", text_of(name), re.M) for name in READMES]
    assert names[0] == names[1]
    links = [sorted(set(LINK.findall(text_of(name))) - set(READMES)) for name in READMES]
    assert links[0] == links[1]
    for name in READMES:
        assert text_of(name).count("<!-- results -->") == 1


@pytest.mark.parametrize("words", commands(*DOCUMENTS), ids=" ".join)
def test_every_command_shown_is_understood(words: list[str]) -> None:
    command_line(words)


def test_the_check_itself_notices_what_does_not_exist() -> None:
    # typer brings its own copy of click, so the kind of its errors is told by their words alone.
    for wrong, told in (
        ("sightling trian x", "no command 'trian'"),
        ("sightling train x --thread 2", "No such option"),
        ("sightling data chekc x", "no command 'chekc'"),
        ("sightling recipes x y", "unexpected extra argument"),
    ):
        with pytest.raises(Exception) as error:
            command_line(shlex.split(wrong))
        assert told in f"{error.value} {getattr(error.value, 'message', '')}", wrong


@pytest.mark.parametrize("words", [w for w in commands(*DOCUMENTS) if w[1] == "train"], ids=" ".join)
def test_every_recipe_and_override_shown_is_valid(words: list[str]) -> None:
    recipe = words[2]
    overrides = [word for word in words[3:] if "=" in word and not word.startswith("-")]
    if PLACEHOLDER.fullmatch(recipe) or recipe.endswith(".yaml"):
        return
    assert recipe in packaged()
    check_recipe(load_recipe(recipe, overrides))


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.M))
    for name in DOCUMENTS:
        shell = "\n".join(content for language, content in blocks(name) if language == "sh")
        shown = set(re.findall(r"^make ([a-z]+)", shell, re.M)) | set(re.findall(r"`make ([a-z]+)`", prose(name)))
        assert shown <= targets, name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_relative_link_resolves(name: str) -> None:
    for target in LINK.findall(prose(name)):
        if not target.startswith(("http://", "https://", "mailto:")):
            path, _, anchor = target.partition("#")
            linked = (ROOT / name).parent / path if path else ROOT / name
            assert linked.exists(), f"{name} links to {target}, which does not exist"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M)
                known = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in known, f"{name} links to {target}; known are {sorted(known)}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_named_exists(name: str) -> None:
    named = set(PATH.findall(prose(name)))
    for words in commands(name):
        named |= {word for word in words if re.fullmatch(r"[\w./-]+/[\w./-]+", word) and not word.startswith(MADE)}
    for path in sorted(named):
        assert (ROOT / path).exists(), f"{name} names {path}"


@pytest.mark.parametrize("name", READMES)
def test_python_shown_uses_public_names(name: str) -> None:
    (content,) = [content for language, content in blocks(name) if language == "python"]
    compile(content, name, "exec")
    used = set(re.findall(r"\bsightling\.(\w+)", content))
    assert used and used <= set(sightling.__all__)
    for one in used:
        assert callable(getattr(sightling, one))
    for path in re.findall(r'"(docs/[^"]+)"', content):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize(("name", "heading"), list(zip(READMES, ("What happened", "刚才发生了什么"))))
def test_the_stages_told_are_those_of_the_recipe(name: str, heading: str) -> None:
    assert first_column(name, heading) == list(load_recipe("quickstart").stages)


@pytest.mark.parametrize(("name", "heading"), list(zip(READMES, ("Your own data", "用自己的数据"))))
def test_the_formats_told_are_those_that_exist(name: str, heading: str) -> None:
    assert sorted(first_column(name, heading)) == FORMATS.names()
    for format_name in FORMATS:
        assert f"## `{format_name}`" in text_of("docs/data.md"), format_name


@pytest.mark.parametrize(("name", "heading"), list(zip(READMES, ("The house", "这座房子"))))
def test_the_packages_told_are_those_that_exist(name: str, heading: str) -> None:
    told = [row.rstrip("/") for row in first_column(name, heading)]
    folders = {path.parent.name for path in (ROOT / "src" / "sightling").glob("*/__init__.py")}
    assert set(told) == folders and len(told) == len(folders)


def test_every_format_option_is_explained() -> None:
    for name in FORMATS:
        section = text_of("docs/data.md").split(f"## `{name}`")[1].split("\n## ")[0]
        for option in FORMATS.get(name).options.model_fields:
            assert f"`{option}`" in section, f"docs/data.md: {name} has the option {option}"


def ours(registry: Registry[Any]) -> list[str]:
    """What the package registers; other tests may have added toys of their own."""
    return [name for name in registry if registry.get(name).__module__.startswith("sightling.")]


def test_every_key_of_a_recipe_is_explained() -> None:
    text = text_of("docs/recipes.md")
    models = [Recipe, RunWide, TrainStage, Trains, Lora, ScheduleOptions, FeatureOptions]
    for registry in (SOURCES, TEXTS, CONNECTORS, TILINGS, STEPS):
        models += [registry.get(name) for name in ours(registry)]
    models += [OBJECTIVES.get(name).Options for name in ours(OBJECTIVES)]
    for model in models:
        for key in model.model_fields:
            assert f"`{key}`" in text, f"docs/recipes.md does not explain {key} of {model.__name__}"
    for names in (*map(ours, (OBJECTIVES, SOURCES, TEXTS, CONNECTORS, TILINGS, STEPS)), SCHEDULES):
        for name in names:
            assert f"`{name}`" in text, f"docs/recipes.md does not name {name}"


def test_every_recipe_written_out_is_valid() -> None:
    whole = 0
    for _, content in [block for block in blocks("docs/recipes.md") if block[0] == "yaml"]:
        tree = parse_yaml(content, "docs/recipes.md")
        if "stages" in tree:
            check_recipe(parse_recipe(tree, "docs/recipes.md"))
            whole += 1
        if "data" in tree:
            make(SOURCES, tree["data"], "data")
    assert whole
