"""What a build depends on, as one hash: so that an unchanged image costs a second and not a build.

Only the files that COPY and ADD name are looked at. That is exact where hashing the whole directory would be slow
(virtual environments, caches) and would rebuild for a change in a file that no image contains.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

_ALWAYS_IGNORED = ("**/__pycache__", "**/*.pyc", ".git")


def digest(*, context: Path, dockerfile: Path) -> str:
    text = dockerfile.read_text()
    result = hashlib.sha256(text.encode())
    ignored = (*_ALWAYS_IGNORED, *_ignore_file(context))
    for source in copied(text):
        for path in sorted(_expand(context, source)):
            for file in _files(context, path, ignored):
                result.update(_file_digest(context, file))
    return result.hexdigest()


def copied(dockerfile: str) -> list[str]:
    """The sources that COPY and ADD take from the build context."""
    found: list[str] = []
    for line in re.sub(r"\\\n", " ", dockerfile).splitlines():
        words = line.strip().split(maxsplit=1)
        if len(words) < 2 or words[0].upper() not in {"COPY", "ADD"} or "--from=" in words[1]:
            continue
        arguments = re.sub(r"^(--\S+\s+)*", "", words[1])
        parts = json.loads(arguments) if arguments.startswith("[") else shlex.split(arguments)
        found += [part for part in parts[:-1] if "://" not in part]
    return found


def _expand(context: Path, source: str) -> list[Path]:
    relative = source.lstrip("/").removeprefix("./")
    return list(context.glob(relative)) if relative not in {"", "."} else [context]


def _files(context: Path, path: Path, ignored: tuple[str, ...]) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            yield from _files(context, child, ignored)
    elif not _is_ignored(path.relative_to(context), ignored):
        yield path


def _file_digest(context: Path, file: Path) -> bytes:
    content = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
    mode = file.lstat().st_mode & 0o111
    return hashlib.sha256(f"{file.relative_to(context)}\0{mode}\0".encode() + content).digest()


def _ignore_file(context: Path) -> list[str]:
    for name in (".containerignore", ".dockerignore"):
        path = context / name
        if path.exists():
            lines = (line.strip().strip("/") for line in path.read_text().splitlines())
            return [line for line in lines if line and not line.startswith("#")]
    return []


def _is_ignored(path: Path, patterns: tuple[str, ...]) -> bool:
    """Later patterns win, and `!` takes back; what holds for a directory holds for all that is in it."""
    below = [each.parts for each in (path, *path.parents) if each.parts]
    ignored = False
    for pattern in patterns:
        glob = tuple(pattern.removeprefix("!").strip("/").split("/"))
        if any(_matches(parts, glob) for parts in below):
            ignored = not pattern.startswith("!")
    return ignored


def _matches(parts: tuple[str, ...], glob: tuple[str, ...]) -> bool:
    """`*` stands for something within one name, `**` for any number of names."""
    if not glob:
        return not parts
    if glob[0] == "**":
        return any(_matches(parts[skipped:], glob[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], glob[0]) and _matches(parts[1:], glob[1:])
