"""Which build of the core to use: the rules that setup.py and `hintbench.core` share.

A build is a folder that holds one extension for every module of the core, and a stamp: a line
with the kind of build and a hash of the sources it was made from. Only a build that is complete
and whose stamp matches the sources is used; a mixture of compiled and interpreted modules dies
with "size changed", and a stale extension would be used without a word.

This module is never compiled. It imports little, since it runs on every start.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

STAMP = "build-stamp.txt"
INTERPRETED = "interpreted"
SHARED = "_cyutility"


@dataclass(frozen=True)
class Choice:
    """The build that was chosen.

    Attributes:
        build: `release`, `checked` or `interpreted`.
        folders: where the core's modules are to be found, first match wins.
        complaint: one sentence for the user when a build is there but cannot be used, or "".
    """

    build: str
    folders: tuple[Path, ...]
    complaint: str = ""


def module_names(folder: Path) -> list[str]:
    """The modules of the core in `folder` that are compiled, sorted.

    Left out are `constants`, whose C side is its .pxd alone, and what begins with an underscore.
    """
    names = sorted(entry[:-3] for entry in os.listdir(folder) if entry.endswith(".py"))
    return [name for name in names if name != "constants" and not name.startswith("_")]


def extension_names(folder: Path) -> list[str]:
    """The extensions of a complete build: the modules and the one that Cython shares by them."""
    return [*module_names(folder), SHARED]


def source_hash(folder: Path) -> str:
    """A hash (16 hexadecimal digits) of all that a compiled core depends on in `folder`."""
    from hashlib import sha256

    total = sha256()
    for entry in sorted(os.listdir(folder)):
        if entry.endswith((".py", ".pxd")) and not entry.startswith("_"):
            # Line ends are no difference: a checkout may have changed them.
            text = Path(folder, entry).read_bytes().replace(b"\r\n", b"\n")
            total.update(f"{entry} {len(text)}\n".encode() + text)
    return total.hexdigest()[:16]


def missing_extensions(folder: Path, names: list[str]) -> list[str]:
    """Those of the modules `names` for which `folder` has no extension for this Python."""
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    return [
        name for name in names if not any(name + suffix in there for suffix in EXTENSION_SUFFIXES)
    ]


def write_stamp(folder: Path, build: str, sources: str) -> None:
    """Declare the extensions in `folder` a complete `build` of the sources with that hash."""
    Path(folder, STAMP).write_text(f"{build} {sources}\n", encoding="ascii")


def remove_stamp(folder: Path) -> None:
    """Declare what is in `folder` no valid build, for as long as it is being replaced."""
    Path(folder, STAMP).unlink(missing_ok=True)


def read_stamp(folder: Path) -> tuple[str, str]:
    """The kind of build in `folder` and the hash of its sources; two empty texts if none."""
    try:
        build, sources = Path(folder, STAMP).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return "", ""
    return build, sources


def choose(folder: Path, request: str) -> Choice:
    """Choose the build of the core whose sources are in `folder`.

    Args:
        folder: the folder of `hintbench.core`, absolute.
        request: "" for the build beside the sources if it is valid, otherwise the sources;
            "interpreted" for the sources; else a folder that `setup.py build_ext --build-lib`
            was given, whose build must be used.

    Raises:
        ImportError: the folder asked for has no valid build.
    """
    if request == INTERPRETED:
        return Choice(INTERPRETED, (folder,))
    place = Path(os.path.abspath(request), "hintbench", "core") if request else folder
    names = extension_names(folder)
    build, sources = read_stamp(place)
    missing = missing_extensions(place, names)
    if not request and not build and len(missing) == len(names):
        return Choice(INTERPRETED, (folder,))
    if not build or missing:
        fault = "is not complete for this Python"
    elif sources != source_hash(folder):
        fault = "was made from other sources"
    else:
        return Choice(build, (place, folder) if request else (folder,))
    if request:
        raise ImportError(
            f"HINTBENCH_CORE is {request!r}, but the build of hintbench's core there {fault}; "
            f"give a folder made with `setup.py build_ext --build-lib`, or {INTERPRETED!r}"
        )
    return Choice(
        INTERPRETED,
        (folder,),
        f"the compiled core of hintbench {fault}, so everything runs interpreted, about 100 "
        f"times slower; {remedy(folder)}",
    )


def remedy(folder: Path) -> str:
    """What the user can do about an unusable build of the core in `folder`."""
    root = folder.parent.parent
    if not Path(root, "setup.py").exists():
        return "reinstall hintbench"
    from shlex import join

    command = join([sys.executable, "setup.py", "build_ext", "--inplace"])
    return f"rebuild it: {join(['cd', str(root)])} && {command}"
