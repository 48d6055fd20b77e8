"""What imports what: plugins only what is public, and nothing itself by way of others."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hintbench

ROOT = Path(__file__).parents[1]
PUBLIC_MODULES = ("operations", "tapes", "replay")
PLUGINS = sorted([*ROOT.glob("strategies/*.py"), *ROOT.glob("workloads/*.py")])
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.glob("hintbench/**/*.py")
}


def imports(tree: ast.AST, own: str = "") -> Iterator[tuple[str, str]]:
    """Every (module, name) that is imported when the code runs, also inside functions."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.dump(tree.test):
        nodes: list[ast.AST] = list(tree.orelse)
    else:
        nodes = list(ast.iter_child_nodes(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        else:
            yield from imports(node)


def everything(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The same with what only a type checker sees."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), a.name) for a in node.names)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_plugins_import_only_what_is_public(path: Path) -> None:
    for module, name in everything(ast.parse(path.read_text())):
        assert not module.startswith("."), f"{path.name}: {module}"
        if module.partition(".")[0] != "hintbench":
            continue
        home, _, below = module.partition(".")
        assert not name.startswith("_")
        if below:
            assert below in PUBLIC_MODULES, f"{path.name}: {module}.{name} is not public"
            assert below in hintbench.__all__
            assert hasattr(getattr(hintbench, below), name)
        else:
            assert name in hintbench.__all__, f"{path.name}: {home}.{name} is not public"


def test_every_public_name_is_there() -> None:
    for name in hintbench.__all__:
        assert getattr(hintbench, name) is not None
    assert {*hintbench._HOMES, "__version__"} == set(hintbench.__all__)


def graph() -> dict[str, set[str]]:
    """By module of hintbench those that it imports, at whatever time."""
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        used = set()
        for home, name in imports(ast.parse(path.read_text())):
            used.add(f"{home}.{name}" if f"{home}.{name}" in MODULES else home)
        found[module] = (used & MODULES.keys()) - {module, "hintbench", "hintbench.core"}
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    left = graph()
    while free := {module for module, used in left.items() if not used & left.keys()}:
        left = {module: used for module, used in left.items() if module not in free}
    # What only uses a cycle is none.
    while idle := {one for one in left if not any(one in used for used in left.values())}:
        left = {module: used for module, used in left.items() if module not in idle}
    assert {module: used & left.keys() for module, used in left.items()} == {}


# The modules of the top floor, by what they are for.
FLOOR = {
    # What authors of plugins write against.
    "public": "hookspecs operations strategy tapes workload",
    "run": "blamed_tape matrix named_run runner scale speed workers",
    "doors": "hintbench __main__ replay",
}
MODEL = {"core", "config", "errors", "tasks", "kernel", "host", "guest"}
MAY_IMPORT = {
    "doors": set(),
    "core": set(),
    "errors": set(),
    "config": {"errors"},
    "tasks": {"core", "errors"},
    "kernel": {"core"},
    "host": {"core", "tasks"},
    "guest": {"core", "config", "errors", "host", "tasks"},
    "results": {"core", "config", "errors"},
    # Strategies and workloads are classes that know how to read their parameters.
    "public": {"core", "errors", "plugins"},
    "plugins": {"config", "errors", "public"},
    "run": MODEL | {"results", "public", "plugins"},
    "traces": MODEL | {"results", "public", "plugins", "run"},
    "testing": MODEL | {"results", "public", "plugins", "run"},
    "cli": MODEL | {"results", "public", "plugins", "run", "traces", "testing"},
}
DOORS = {
    # What workloads see of traces.
    ("hintbench.replay", "traces"),
    # What a strategy claims is held to the longest duration that a call may be given.
    ("hintbench.strategy", "tasks"),
    ("hintbench.__main__", "cli"),
}


def room_of(module: str) -> str:
    name = module.removeprefix("hintbench.").partition(".")[0]
    if name in MAY_IMPORT:
        return name
    return next((room for room, names in FLOOR.items() if name in names.split()), module)


def test_rooms_import_one_way() -> None:
    seen = set()
    for module, used in graph().items():
        room = room_of(module)
        for other in {room_of(each) for each in used} - {room}:
            seen.add((room, other))
            allowed = other in MAY_IMPORT[room] or (module, other) in DOORS
            assert allowed, f"{module}, of {room}, imports from {other}"
    assert ("cli", "testing") in seen
    assert ("run", "core") in seen


# Below testing: its rooms, and modules beside them that rooms need; "check" is all the others.
LOOKS = {"checker", "schedules", "scenarios", "runs", "races", "rules", "exploration"}
MAY_IMPORT_IN_TESTING = {
    "checker": set(),
    "schedules": set(),
    "mutants": set(),
    "scenarios": {"schedules"},
    "races": {"checker"},
    "runs": {"checker", "scenarios"},
    "rules": {"checker", "runs"},
    "exploration": LOOKS,
    "counterexamples": LOOKS,
    "check": LOOKS | {"counterexamples", "mutants"},
}


def room_in_testing(module: str) -> str:
    name = module.removeprefix("hintbench.testing").removeprefix(".").partition(".")[0]
    return name if name in MAY_IMPORT_IN_TESTING else "check"


def test_rooms_of_testing_import_one_way() -> None:
    seen = set()
    for module, used in graph().items():
        room = room_in_testing(module)
        within = {room_in_testing(each) for each in used if room_of(each) == "testing"}
        for other in within - {room} if room_of(module) == "testing" else ():
            seen.add((room, other))
            allowed = other in MAY_IMPORT_IN_TESTING[room]
            assert allowed, f"{module}, of {room}, imports from {other}"
    assert ("check", "exploration") in seen
    assert ("rules", "runs") in seen
    rooms = {path.name for path in ROOT.glob("hintbench/testing/*/") if path.name[0] != "_"}
    assert rooms <= MAY_IMPORT_IN_TESTING.keys()
