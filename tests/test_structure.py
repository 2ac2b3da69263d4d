"""The structure of the two packages: unique names, no circles, rooms entered by their front doors, words of the field.

A room is a folder directly below a package. CONTRIBUTING.md says the same rules in words.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGES = ("modelzoo_datasets", "hyperrep")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ROOMS = sorted({"/".join(path.relative_to(ROOT).parts[:2]) for path in MODULES})
MAY_REPEAT = {"__init__", "base", "registry", "errors"}  # base names that every room may have
# Whole identifiers that are not to be names: vague participles, and words that the field has others for.
FORBIDDEN_WORDS = {
    *(
        "told",
        "kept",
        "said",
        "begun",
        "wanted",
        "asked",
        "given",
        "found",
        "chosen",
        "drawn",
        "judged",
        "evaluated",
        "left",
    ),
    *(
        "facts",
        "draws",
        "how",
        "most",
        "least",
        "at_once",
        "half",
        "tell",
        "announce",
        "silent",
        "remedy",
        "ours",
        "theirs",
    ),
}
# A function does something: its name begins with a verb, never with what was done.
PARTICIPLES = {
    *(
        "told",
        "kept",
        "said",
        "begun",
        "given",
        "found",
        "chosen",
        "drawn",
        "known",
        "seen",
        "made",
        "written",
        "done",
        "held",
    ),
    *("left", "shown", "taken", "gone", "sent", "built", "lost", "meant", "thought", "worn", "grown", "hidden"),
}
NO_PARTICIPLES = {"keyed", "seed", "embed", "speed", "need", "feed", "proceed", "exceed", "shed"}
SHAPES = re.compile(r"^_*(of|of_.*|.*_of)$")
FIRST_WORDS = {"What", "Whether", "How", "Which", "Of", "That", "It", "Those", "These", "They", "Same"}  # of docstrings


@cache
def parse_module(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def modules_in(room: str) -> list[Path]:
    return [path for path in MODULES if "/".join(path.relative_to(ROOT).parts[:2]) == room]


def name_of_module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """The room of a module, or the module itself where it lies directly in its package."""
    return ".".join(module.split(".")[:2])


def exports(package: str) -> dict[str, str]:
    """Public name -> module, as the stub of a room lists them."""
    stub = ROOT / Path(*package.split(".")) / "__init__.pyi"
    if not stub.exists():
        return {}
    nodes = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{package}.{node.module}" for node in nodes for alias in node.names}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of our own packages, with those that only type checkers see."""
    tree, module = parse_module(path), name_of_module(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            base = parts[: len(parts) - node.level + 1] if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            if full.split(".")[0] in PACKAGES:
                yield from ((full, alias.name) for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_base_names_are_unique(package: str) -> None:
    count = Counter(path.stem for path in MODULES if path.relative_to(ROOT).parts[0] == package)
    assert [name for name, n in count.items() if n > 1 and name not in MAY_REPEAT] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_class_names_are_unique(package: str) -> None:
    trees = [parse_module(path) for path in MODULES if path.relative_to(ROOT).parts[0] == package]
    count = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, n in count.items() if n > 1] == []


def test_no_module_imports_itself_in_a_circle() -> None:
    known, graph = {name_of_module(path) for path in MODULES}, {}
    for path in MODULES:
        targets = {exports(full).get(name, full) for full, name in imports(path)}
        graph[name_of_module(path)] = {t for t in targets if t in known} - {name_of_module(path)}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_modelzoo_datasets_imports_nothing_of_hyperrep() -> None:
    paths = [path for path in MODULES if path.relative_to(ROOT).parts[0] == "modelzoo_datasets"]
    assert [str(path) for path in paths for full, _ in imports(path) if full.startswith("hyperrep")] == []


@pytest.mark.parametrize("place", ROOMS)
def test_other_rooms_are_entered_by_their_front_doors(place: str) -> None:
    """A name of another room comes from that room's `__init__`, not from a module inside it."""
    past = [
        f"{path.relative_to(ROOT)}: {full}"
        for path in modules_in(place)
        for full, _ in imports(path)
        if room(full) not in (room(name_of_module(path)), full)
    ]
    assert past == []


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Names that a module gives: of functions, classes, arguments, variables and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def is_forbidden(name: str, *, is_function: bool) -> bool:
    first = name.strip("_").split("_")[0]
    participle = first in PARTICIPLES or (first.endswith("ed") and first not in NO_PARTICIPLES)
    return name.strip("_") in FORBIDDEN_WORDS or bool(SHAPES.match(name)) or (is_function and participle)


@pytest.mark.parametrize("place", ROOMS)
def test_names_are_words_of_the_field(place: str) -> None:
    bad = set()
    for path in modules_in(place):
        nodes = ast.walk(parse_module(path))
        functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        names = {name for name in identifiers(parse_module(path)) if is_forbidden(name, is_function=name in functions)}
        bad |= {f"{path.relative_to(ROOT)}: {name}" for name in names}
    assert sorted(bad) == []


@pytest.mark.parametrize("place", ROOMS)
def test_modules_are_nouns(place: str) -> None:
    assert [str(path.relative_to(ROOT)) for path in modules_in(place) if path.stem.endswith("ing")] == []


@pytest.mark.parametrize("place", ROOMS)
def test_docstrings_and_comments_are_sentences(place: str) -> None:
    bad = []
    for path in modules_in(place):
        comments = [line.strip() for line in path.read_text().splitlines() if re.search(r"#\s+of\s", line)]
        nodes = [n for n in ast.walk(parse_module(path)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        first = [doc.split("\n")[0] for node in nodes if (doc := ast.get_docstring(node))]
        fragments = [line for line in first if line.split()[0].rstrip(",:;") in FIRST_WORDS]
        bad += [f"{path.relative_to(ROOT)}: {line}" for line in comments + fragments]
    assert bad == []
