"""The structure of the two packages: unique names, no circles, rooms entered by their front doors, words of the field.

A room is a folder directly below a package. CONTRIBUTING.md says the same rules in words.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGES = ("modelzoo_datasets", "hyperrep")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in MODULES]
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
NO_PARTICIPLES = {"seed", "embed", "speed", "need", "feed", "proceed", "exceed", "shed"}
SHAPES = re.compile(r"^_*(of|of_.*|.*_of)$")
FIRST_WORDS = {"What", "Whether", "How", "Which", "Of", "That", "It", "Those", "These", "They", "Same"}  # of docstrings


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
    """(module, name) of every import of our own packages, but for those that only type checkers see."""
    tree, module = ast.parse(path.read_text()), name_of_module(path)
    unseen = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for node in unseen for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in skipped:
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
    trees = [ast.parse(path.read_text()) for path in MODULES if path.relative_to(ROOT).parts[0] == package]
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


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_other_rooms_are_entered_by_their_front_doors(path: Path) -> None:
    here = name_of_module(path)
    past = [full for full, _ in imports(path) if room(full) != room(here) and full != room(full)]
    assert past == [], f"{here} reaches past the front door of {past}"


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


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_names_are_words_of_the_field(path: Path) -> None:
    tree = ast.parse(path.read_text())
    words = {name for name in identifiers(tree) if name.strip("_") in FORBIDDEN_WORDS or SHAPES.match(name)}
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for name in functions:
        first = name.strip("_").split("_")[0]
        if first in PARTICIPLES or (first.endswith("ed") and first not in NO_PARTICIPLES):
            words.add(name)
    assert sorted(words) == []


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_modules_are_nouns(path: Path) -> None:
    assert not path.stem.endswith("ing"), f"{path.stem} is a gerund: name the thing in it"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_docstrings_and_comments_are_sentences(path: Path) -> None:
    text = path.read_text()
    comments = [line.strip() for line in text.splitlines() if re.search(r"#\s+of\s", line)]
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    first = [doc.split("\n")[0] for node in nodes if (doc := ast.get_docstring(node))]
    assert comments + [line for line in first if line.split()[0].rstrip(",:;") in FIRST_WORDS] == []
