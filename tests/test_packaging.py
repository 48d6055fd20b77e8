"""How the project is built: the core's two cores and their choice, declarations, distributions."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from hintbench.config import defaults
from hintbench.core import BUILD, _builds, constants
from hintbench.plugins import registry

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "hintbench" / "core"
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = _builds.module_names(CORE)


def run_python(code: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python of its own, away from the repository unless `cwd` is there."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("HINTBENCH_CORE", "HINTBENCH_BUILD", "PYTHONPATH")
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# --- declarations: the .pxd against the .py ---------------------------------------------------


def pxd_attributes(text: str) -> dict[str, dict[str, str]]:
    """The attributes of each cdef class in the text of a .pxd, with their C types."""
    classes: dict[str, dict[str, str]] = {}
    current = ""
    for line in text.splitlines():
        line = line.split("#")[0].rstrip()
        head = re.match(r"cdef class (\w+)", line)
        if head:
            current = head[1]
            classes[current] = {}
        elif line and not line.startswith(" "):
            current = ""
        declared = re.match(r"\s+cdef (?:public |readonly )?(.+)$", line)
        if current and declared and "(" not in line:
            parts = re.match(r"(.*?[\w\]*])\s+(\w+(?:\s*,\s*\w+)*)$", declared[1])
            assert parts, f"not understood: {line!r}"
            for name in re.split(r"\s*,\s*", parts[2]):
                classes[current][name] = parts[1]
    return classes


def py_annotations(text: str) -> dict[str, dict[str, str]]:
    """The annotated attributes of each class in the text of a .py, as they are written."""
    classes: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            found = classes.setdefault(node.name, {})
            for part in ast.walk(node):
                if not isinstance(part, ast.AnnAssign):
                    continue
                target, annotation = part.target, ast.unparse(part.annotation)
                if isinstance(target, ast.Name) and part in node.body:
                    found[target.id] = annotation
                elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    found[target.attr] = annotation
    return classes


def py_assigned(text: str) -> set[str]:
    """The attributes that the text of a .py assigns, of whatever object."""
    return {
        part.attr
        for part in ast.walk(ast.parse(text))
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
    }


C_NAMES = {
    "longlong": "long long",
    "ulonglong": "unsigned long long",
    "uint": "unsigned int",
    "ulong": "unsigned long",
    "ushort": "unsigned short",
    "uchar": "unsigned char",
    "schar": "signed char",
    "Any": "object",
}


def as_c(annotation: str) -> str:
    """An annotation of pure-Python mode as a .pxd spells the type."""
    annotation = annotation.strip("'\"").removeprefix("cython.")
    name, bracket, rest = annotation.partition("[")
    if bracket and ":" not in rest:
        bracket = rest = ""  # list[int]: for a .pxd that is list
    return C_NAMES.get(name, name) + bracket + rest.replace(" ", "")


@pytest.mark.parametrize("name", [name for name in MODULES if (CORE / f"{name}.pxd").exists()])
def test_attribute_types_agree(name: str) -> None:
    source = (CORE / f"{name}.py").read_text(encoding="utf-8")
    declared = pxd_attributes((CORE / f"{name}.pxd").read_text(encoding="utf-8"))
    annotated = py_annotations(source)
    # A base class may leave an attribute to its subclasses in other modules.
    assigned = set().union(*(py_assigned(path.read_text("utf-8")) for path in CORE.glob("*.py")))
    for cls, attributes in declared.items():
        assert cls in annotated, f"{name}.pxd declares {cls}, {name}.py has no such class"
        for attribute, c_type in attributes.items():
            if attribute in annotated[cls]:
                assert as_c(annotated[cls][attribute]) == c_type, f"{name}: {cls}.{attribute}"
            else:
                assert attribute in assigned, f"{name}: {cls}.{attribute} is never assigned"


def test_the_comparison_sees_a_wrong_type() -> None:
    declared = pxd_attributes(
        "cdef class A(B):\n    cdef public long long x, y  # time\n    cdef int[::1] z\n"
        "    cdef int f(self, int a) except -1\ncdef enum:\n    Q = 1\n"
    )
    annotated = py_annotations(
        "class A:\n    x: cython.int\n    y: cython.longlong\n"
        "    def f(self):\n        local: cython.int = 1\n        self.z: cython.int[::1] = local\n"
    )
    assert declared == {"A": {"x": "long long", "y": "long long", "z": "int[::1]"}}
    assert {key: as_c(value) for key, value in annotated["A"].items()} == {
        "x": "int",
        "y": "long long",
        "z": "int[::1]",
    }


def test_constants_agree_with_their_declarations() -> None:
    text = (CORE / "constants.pxd").read_text(encoding="utf-8")
    declared = {
        name: int(value, 0)
        for name, value in re.findall(r"^\s+([A-Z]\w*)\s*=\s*(-?\w+)", text, re.MULTILINE)
    }
    # A number beyond int has a macro instead: #define X 1LL, then: const long long NAME "X".
    macros = dict(re.findall(r"#define (\w+) (-?\w+?)[UL]*$", text, re.MULTILINE))
    for name, macro in re.findall(r'const [\w ]+? (\w+) "(\w+)"', text):
        declared[name] = int(macros[macro], 0)
    values = {
        name: value
        for name, value in vars(constants).items()
        if name.isupper() and isinstance(value, int)
    }
    assert declared == values


# --- which core runs ---------------------------------------------------------------------------

LOADED = f"""
import json, importlib, hintbench.core as core
files = [importlib.import_module("hintbench.core." + name).__file__ for name in {MODULES}]
print(json.dumps([core.BUILD, sum(not file.endswith(".py") for file in files)]))
"""


def test_all_or_nothing_is_compiled(tmp_path: Path) -> None:
    done = run_python(LOADED, tmp_path)
    assert done.returncode == 0, done.stderr
    build, compiled = json.loads(done.stdout)
    assert compiled == (0 if build == "interpreted" else len(MODULES))


def test_interpreted_can_be_asked_for(tmp_path: Path) -> None:
    done = run_python(LOADED, tmp_path, HINTBENCH_CORE="interpreted")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == ["interpreted", 0]


def test_this_run_has_the_core_that_was_asked_for() -> None:
    request = os.environ.get("HINTBENCH_CORE", "")
    if request == "interpreted":
        assert BUILD == "interpreted"
    elif request:
        assert _builds.read_stamp(Path(request, "hintbench", "core"))[0] == BUILD
    else:
        assert BUILD in ("release", "checked", "interpreted")


def make_core(root: Path) -> Path:
    """A package `hintbench` in `root` whose core has two modules and no build; its folder."""
    core = root / "hintbench" / "core"
    core.mkdir(parents=True)
    (root / "hintbench" / "__init__.py").touch()
    for name in ("__init__.py", "_builds.py"):
        shutil.copy(CORE / name, core)
    for name in ("constants", "pages", "zone"):
        (core / f"{name}.py").write_text("VALUE = 1\n", encoding="utf-8")
    (core / "pages.pxd").write_text("cdef class Pages:\n    cdef int x\n", encoding="utf-8")
    return core


def make_build(core: Path, place: Path, kind: str = "release") -> None:
    """What stands for a complete build of `core` in `place`: extensions that cannot be loaded."""
    place.mkdir(parents=True, exist_ok=True)
    for name in _builds.extension_names(core):
        (place / (name + EXTENSION_SUFFIXES[0])).write_bytes(b"no extension")
    _builds.write_stamp(place, kind, _builds.source_hash(core))


def test_a_complete_build_is_chosen(tmp_path: Path) -> None:
    core = make_core(tmp_path)
    assert _builds.module_names(core) == ["pages", "zone"]
    assert _builds.choose(core, "") == _builds.Choice("interpreted", (core,))
    make_build(core, core)
    assert _builds.choose(core, "") == _builds.Choice("release", (core,))
    assert _builds.choose(core, "interpreted") == _builds.Choice("interpreted", (core,))


@pytest.mark.parametrize("changed", ["pages.py", "pages.pxd", "constants.py", "new.py"])
def test_a_stale_build_is_not_used(tmp_path: Path, changed: str) -> None:
    core = make_core(tmp_path)
    make_build(core, core)
    with (core / changed).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    choice = _builds.choose(core, "")
    assert (choice.build, choice.folders) == ("interpreted", (core,))
    assert "interpreted" in choice.complaint
    assert "reinstall hintbench" in choice.complaint


def test_line_ends_do_not_make_a_build_stale(tmp_path: Path) -> None:
    core = make_core(tmp_path)
    before = _builds.source_hash(core)
    (core / "pages.py").write_bytes(b"VALUE = 1\r\n")
    assert _builds.source_hash(core) == before


@pytest.mark.parametrize("lost", [_builds.STAMP, "zone" + EXTENSION_SUFFIXES[0]])
def test_an_incomplete_build_is_not_used(tmp_path: Path, lost: str) -> None:
    core = make_core(tmp_path)
    make_build(core, core)
    (core / lost).unlink()
    choice = _builds.choose(core, "")
    assert choice.build == "interpreted"
    assert "not complete" in choice.complaint


def test_a_checkout_is_told_how_to_rebuild(tmp_path: Path) -> None:
    core = make_core(tmp_path)
    make_build(core, core)
    (core / "zone.py").write_text("VALUE = 2\n", encoding="utf-8")
    (tmp_path / "setup.py").touch()
    complaint = _builds.choose(core, "").complaint
    assert str(tmp_path) in complaint
    assert "setup.py build_ext --inplace" in complaint


def test_another_build_can_be_asked_for(tmp_path: Path) -> None:
    core = make_core(tmp_path)
    place = tmp_path / "checked" / "hintbench" / "core"
    make_build(core, place, "checked")
    request = str(tmp_path / "checked")
    assert _builds.choose(core, request) == _builds.Choice("checked", (place, core))
    (core / "zone.py").write_text("VALUE = 2\n", encoding="utf-8")
    with pytest.raises(ImportError, match="HINTBENCH_CORE"):
        _builds.choose(core, request)
    with pytest.raises(ImportError, match="HINTBENCH_CORE"):
        _builds.choose(core, str(tmp_path / "nowhere"))


def test_a_stale_build_warns_and_its_extensions_are_not_loaded(tmp_path: Path) -> None:
    core = make_core(tmp_path)
    make_build(core, core)
    code = "import hintbench.core as c, hintbench.core.zone as z; print(c.BUILD, z.VALUE)"
    # A valid stamp: the extensions are tried, and are none.
    assert "ImportError" in run_python(code, tmp_path).stderr
    (core / "zone.py").write_text("VALUE = 2\n", encoding="utf-8")
    done = run_python(code, tmp_path)
    assert done.stdout.split() == ["interpreted", "2"]
    assert done.stderr.count("RuntimeWarning: ") == 1
    silent = run_python(code, tmp_path, HINTBENCH_CORE="interpreted")
    assert (silent.stdout.split(), silent.stderr) == (["interpreted", "2"], "")


# --- what is installed -------------------------------------------------------------------------


def test_every_package_is_listed() -> None:
    setuptools = CONFIGURATION["tool"]["setuptools"]
    folders = {
        ROOT / "strategies": "hintbench.strategies",
        ROOT / "workloads": "hintbench.workloads",
    }
    found = set()
    for top in (ROOT / "hintbench", *folders):
        for path in top.rglob("__init__.py"):
            start = folders.get(top, "hintbench")
            found.add(".".join([start, *path.parent.relative_to(top).parts]))
    assert set(setuptools["packages"]) == found


def test_every_plugin_is_listed() -> None:
    listed = CONFIGURATION["project"]["entry-points"]["hintbench"]
    found = {
        f"hintbench.{room}.{path.stem}"
        for room in ("strategies", "workloads")
        for path in (ROOT / room).glob("[a-z]*.py")
    }
    assert set(listed.values()) == found
    assert all(name.replace("-", "_") == value.split(".")[-1] for name, value in listed.items())
    # The lists that are there so that nobody has to read entry points first.
    assert listed == {**registry.OWN_STRATEGIES, **registry.OWN_WORKLOADS}
    assert sorted(defaults.STRATEGIES) == sorted(registry.OWN_STRATEGIES)


@pytest.mark.parametrize("room", ["strategies", "workloads"])
def test_no_room_is_a_top_level_name(tmp_path: Path, room: str) -> None:
    done = run_python(f"import hintbench.{room}\nimport {room}", tmp_path)
    assert f"ModuleNotFoundError: No module named '{room}'" in done.stderr, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel without extensions, built from a source distribution of a copy of the tree."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("distribution")
    ignore = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.pyd", _builds.STAMP
    )
    shutil.copytree(ROOT, folder / "tree", ignore=ignore)
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", folder / "dist", "."]
    environment = {**os.environ, "HINTBENCH_BUILD": "interpreted"}
    done = subprocess.run(
        command, cwd=folder / "tree", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next((folder / "dist").glob("*.whl"))


def test_wheel_from_sdist_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    rooms = {"hintbench": "hintbench"}
    rooms |= {room: f"hintbench/{room}" for room in ("strategies", "workloads")}
    built = {".pyc", ".so", ".pyd", ".c", ".html"}
    expected = {
        path.relative_to(ROOT).as_posix().replace(f"{room}/", f"{target}/", 1)
        for room, target in rooms.items()
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix not in built and path.name != _builds.STAMP
    }
    assert expected <= names
    assert {path for path in expected if path.startswith("hintbench/data/")}
    assert {name.split("/")[0] for name in names} == {"hintbench"}
    assert not [name for name in names if name.endswith((".c", ".so", ".pyd", _builds.STAMP))]


def test_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import hintbench.core, hintbench.strategies.none, hintbench.workloads.churn\n"
        "from hintbench.traces import SAMPLE, SAMPLE_PAGES, SAMPLE_PAGES_END\n"
        "assert all(path.is_file() for path in (SAMPLE, SAMPLE_PAGES, SAMPLE_PAGES_END))\n"
        "print(hintbench.core.BUILD, hintbench.strategies.none.__file__)"
    )
    done = run_python(code, tmp_path / "elsewhere", PYTHONPATH=str(tmp_path / "installed"))
    assert done.returncode == 0, done.stderr
    build, file = done.stdout.split()
    assert build == "interpreted"
    assert Path(file) == tmp_path / "installed" / "hintbench" / "strategies" / "none.py"
