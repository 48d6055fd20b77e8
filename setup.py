"""The compiled extensions of `hintbench.core`; all else about the project is in pyproject.toml.

The environment variable HINTBENCH_BUILD chooses how the core is built:

* `release` (default): fast; a machine without a working compiler still installs, interpreted.
* `required`: the same, but a compiler that is missing or fails is an error (benchmarks, CI).
* `checked`: with checks of bounds, initialisation, None and overflow, for tests.
* `interpreted`: no extensions at all.

Each kind has a build folder of its own, so that going back and forth compiles nothing twice.
"""

import os
import sys
from pathlib import Path
from runpy import run_path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("hintbench/core")
KINDS = ("release", "required", "checked", "interpreted")

kind = os.environ.get("HINTBENCH_BUILD") or "release"
if kind not in KINDS:
    raise SystemExit(f"HINTBENCH_BUILD is {kind!r}, must be one of: {', '.join(KINDS)}")
checked = kind == "checked"
build_folder = Path("build", "release" if kind == "required" else kind)
jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
builds = run_path(str(CORE / "_builds.py"))

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": checked,
    "initializedcheck": checked,
    "nonecheck": checked,
    "overflowcheck": checked,
    "cdivision": not checked,
    "wraparound": False,
    # For the few methods that say `embedsignature`, as builtins do it: help() reads this form.
    "embedsignature.format": "clinic",
}


def compile_arguments() -> list[str]:
    """Options for the C compiler: portable, without debug information (it doubles the time).

    The checked core runs for less long than optimising it would take; it keeps the assertions of
    Python's own headers.
    """
    if sys.platform == "win32":
        return []
    return [*(("-O0", "-UNDEBUG") if checked else ("-O3",)), "-fno-strict-overflow", "-g0"]


class BuildCore(build_ext):
    """Translates the core to C only when extensions are built, and stamps a complete build."""

    def run(self) -> None:
        """Translate, compile and stamp."""
        self.sources_hash = builds["source_hash"](CORE)
        translated = self.translate()
        if not self.inplace:
            builds["remove_stamp"](Path(self.build_lib, CORE))
        super().run()
        if builds["source_hash"](CORE) != self.sources_hash:
            # A translation may be older than the text and yet have the later time stamp.
            for path in translated:
                path.unlink(missing_ok=True)
            self.warn("the core's sources changed while it was built: build it once more")
        if not self.inplace:
            self.stamp(Path(self.build_lib, CORE))

    def translate(self) -> list[Path]:
        """Run Cython, let the extensions continue with its C files, and return those.

        The extensions themselves are kept: those that cythonize() returns have lost `optional`.
        """
        from importlib.metadata import version

        from Cython.Build import cythonize

        plain = [
            Extension(extension.name, list(extension.sources)) for extension in self.extensions
        ]
        results = cythonize(
            plain,
            build_dir=str(build_folder / f"cython-{version('Cython')}"),
            compiler_directives=DIRECTIVES,
            nthreads=jobs if sys.platform == "linux" else 0,
            force=bool(self.force),
            # What every module needs for its memoryviews is compiled once, in a module for all.
            shared_utility_qualified_name=f"hintbench.core.{builds['SHARED']}",
        )
        by_name = {result.name: result for result in results}
        for extension in self.extensions:
            extension.sources = by_name[extension.name].sources
        return [Path(extension.sources[0]) for extension in self.extensions]

    def copy_extensions_to_source(self) -> None:
        """Replace a build in place; until that is complete it has no stamp."""
        builds["remove_stamp"](CORE)
        super().copy_extensions_to_source()
        self.stamp(CORE)

    def stamp(self, folder: Path) -> None:
        """Write the stamp that makes a build valid, if every extension is there."""
        missing = builds["missing_extensions"](folder, builds["extension_names"](CORE))
        if missing:
            self.warn(f"not compiled: {', '.join(missing)}; the core will run interpreted")
        else:
            builds["write_stamp"](folder, "checked" if checked else "release", self.sources_hash)

    def get_output_mapping(self) -> dict[str, str]:
        """Name the stamp beside the extensions built in place (strict editable installs)."""
        mapping = super().get_output_mapping()
        stamp = CORE / builds["STAMP"]
        if self.inplace and stamp.exists():
            mapping[str(Path(self.build_lib, stamp))] = str(stamp)
        return mapping


def source_of(name: str) -> str:
    """Where the source of an extension is; Cython writes that of the shared one itself."""
    return str(CORE / (f"{name}.c" if name == builds["SHARED"] else f"{name}.py"))


extensions = [
    Extension(
        f"hintbench.core.{name}",
        [source_of(name)],
        extra_compile_args=compile_arguments(),
        depends=["setup.py"],
        optional=kind == "release",
    )
    for name in (builds["extension_names"](CORE) if kind != "interpreted" else [])
]

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildCore},
    options={
        "build": {"build_base": str(build_folder)},
        "build_ext": {"parallel": jobs},
    },
)
