"""The rules of the house that no other test would notice being broken, read from the source text."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sightling

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "sightling"

LAYERS = (
    "world", "data", "sight", "model", "train", "decode", "evaluate", "align", "interop", "serve", "studies", "cli",
)  # fmt: skip
"""From the ground up: a package imports only from those before it, and from itself."""

FLOOR = ("errors", "registry", "parts", "foreign")
"""Single files below every package."""

PUBLIC = sightling._HOMES
"""What ``sightling`` itself offers, and the module that each name comes from."""

LOADING = "loading"
"""The file behind ``sightling.load``; it stands on the model and on nothing above it."""

MOST_LINES = 400

PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def modules() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def layer_of(path: Path) -> str:
    """The package a file belongs to, or its own name where it lies beside the packages."""
    first = path.relative_to(SRC).parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, wherever in it; ``from a import b`` is ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ("sightling", *path.relative_to(SRC).parts[:-1])
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr) in ("import_module", "__import__")
            and node.args
        ):
            if isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)
            elif isinstance(node.args[0], ast.JoinedStr) and isinstance(node.args[0].values[0], ast.Constant):
                yield node.lineno, str(node.args[0].values[0].value)


def imported(path: Path) -> list[tuple[int, str]]:
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), path))


def inner(name: str) -> str | None:
    """The layer (or floor file) behind an imported name of ours; ``None`` for what is below all or foreign."""
    steps = name.split(".")
    if steps[0] != "sightling" or len(steps) < 2 or steps[1] in (*FLOOR, "__version__"):
        return None
    if steps[1] == LOADING:
        return "model"
    if steps[1] in LAYERS:
        return steps[1]
    assert steps[1] in PUBLIC, f"{name} is neither a package of the house nor a public name of sightling"
    return inner(PUBLIC[steps[1]])


@pytest.mark.parametrize("layer", LAYERS)
def test_a_package_imports_only_from_those_before_it(layer: str) -> None:
    wrong = []
    for path in modules():
        if layer_of(path) != layer:
            continue
        for line, name in imported(path):
            target = inner(name)
            if target is not None and LAYERS.index(target) > LAYERS.index(layer):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_floor_stands_on_nothing_of_the_house() -> None:
    for name in FLOOR:
        used = [one for _, one in imported(SRC / f"{name}.py") if one.startswith("sightling.")]
        assert all(one.split(".")[1] in FLOOR for one in used), (name, used)


def test_every_file_of_the_package_has_a_place_in_the_house() -> None:
    known = {*LAYERS, *FLOOR, LOADING, "__init__", "__main__"}
    assert {layer_of(path) for path in modules()} <= known
    for layer in LAYERS:
        assert (SRC / layer / "__init__.py").is_file(), layer


def test_the_layer_reader_sees_every_way_to_import() -> None:
    source = """
import sightling.train.loop
from sightling.cli import app
def later():
    from ..decode import ask
    from . import scene
    import_module(f"sightling.serve.{name}")
"""
    names = {name for _, name in imports(ast.parse(source), SRC / "world" / "any.py")}
    expected = {"sightling.train.loop", "sightling.cli.app", "sightling.decode.ask", "sightling.world.scene"}
    assert expected <= names
    assert {inner(name) for name in names} == {"train", "cli", "decode", "world", "serve"}
    with pytest.raises(AssertionError, match="neither"):
        inner("sightling.attic.thing")


def test_the_small_world_knows_no_torch() -> None:
    foreign = {"torch", "transformers", "accelerate"}
    for path in modules():
        if layer_of(path) == "world":
            assert not foreign & {name.split(".")[0] for _, name in imported(path)}, path
    parts = ", ".join(f"sightling.world.{name}" for name in ("captions", "parse", "questions", "render", "scenes"))
    program = f"import sys, {parts}; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(done.stdout)
    assert "sightling.world.render" in loaded
    assert not foreign & set(loaded)


def test_torchvision_is_imported_nowhere() -> None:
    for path in [*modules(), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        # Paths outside the package have no relative imports, so any place in it serves to read them.
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {name.split(".")[0] for _, name in imports(tree, SRC / "anywhere.py")}
        assert "torchvision" not in names, path


def test_no_file_is_longer_than_one_can_hold_in_mind() -> None:
    long = {}
    for path in SRC.rglob("*"):
        if path.is_file() and path.suffix in (".py", ".yaml", ".html", ".j2", ".css", ".js"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > MOST_LINES:
                long[str(path.relative_to(ROOT))] = lines
    assert not long


def test_nothing_is_unpickled() -> None:
    for path in modules():
        for line, name in imported(path):
            # The exception that torch.load raises for a damaged file is not a way to unpickle.
            harmless = name == "pickle.UnpicklingError"
            assert harmless or name.split(".")[0] not in PICKLERS, f"{path.relative_to(ROOT)}:{line} imports {name}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            if re.fullmatch(r"torch\.load|torch\.serialization\.load", called):
                assert told.get("weights_only") == "True", f"{where}: torch.load without weights_only=True"
            assert told.get("allow_pickle", "False") == "False", f"{where}: allow_pickle"
            assert told.get("trust_remote_code", "False") == "False", f"{where}: trust_remote_code"


def test_no_warning_is_silenced() -> None:
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert "warnings.filterwarnings" not in text and "warnings.simplefilter" not in text, path
