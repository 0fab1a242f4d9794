"""Files that are whole or absent: atomic writes, digests and the manifest of a results folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
_PARTS = {"schema", "kind", "parameters", "inputs", "code", "outputs", "details"}
_TEMPORARY = re.compile(r"\..*\.[a-z0-9_]+\.tmp(\.[^.]*)?")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL = 2**20  # bytes; a disk with less is full
_UMASK = os.umask(0o022)  # at import: changing it later, even for a moment, would race threads
os.umask(_UMASK)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends without error.

    A reader sees the old file or the whole new one, also after a power cut. The folder is created.
    The temporary name keeps the suffix, by which some writers choose their format.

    Raises: what the block raises; FileNotFoundError when it wrote nothing; OSError that names
    `path` where there is no room for it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _claimed_temporary(path) as temporary:
        try:
            temporary.chmod(0o666 & ~_UMASK)  # mkstemp makes private files; these are to share
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            number = _no_room(error, path.parent)
            temporary.unlink(missing_ok=True)
            if number:
                raise OSError(number, os.strerror(number), str(path)) from error
            raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the temporary files that killed processes left anywhere in `folder`; returns them.

    One that `atomic_path` is writing right now stays, where the file system has locks.
    """
    removed = []
    for path in sorted(Path(folder).rglob(".*.tmp*")):
        if _TEMPORARY.fullmatch(path.name):
            with suppress(FileNotFoundError), path.open("rb+") as file:
                if _lock(file.fileno(), blocking=False):
                    path.unlink()
                    removed.append(path)
    return removed


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` as JSON, atomically; equal data has equal bytes.

    Raises: ValueError for NaN or infinity, which JSON does not have; TypeError for other types.
    """
    write_text(path, _json_text(obj, f"cannot write {path}", indent=1) + "\n")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(obj: Any) -> str:
    """SHA-256 of `obj` as JSON with sorted keys and no spaces, in hexadecimal; raises as
    `write_json`."""
    text = _json_text(obj, "no digest", separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(
    folder: Path,
    *,
    kind: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    code: str,
    outputs: Iterable[Path],
    details: Mapping[str, Any] | None = None,
    name: str = MANIFEST_NAME,
) -> dict[str, Any]:
    """Write the manifest that declares a folder's outputs valid, as the last act; its content.

    `inputs` maps a name to a digest, `code` is a digest of the sources that made the outputs, and
    `outputs` are files inside `folder` (`folder / "a.npy"` or just "a.npy"). There is no time and
    no host in it: the same work gives the same bytes.

    Raises: ValueError for an output that is missing or outside the folder, or for NaN.
    """
    folder = Path(folder)
    listed = {}
    for output in map(Path, outputs):
        given = output if output.is_relative_to(folder) else folder / output
        relative, path = _inside(folder, given)
        if not path.is_file():
            raise ValueError(f"output {relative} is not a file in {folder}; write it first")
        listed[relative] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    manifest = {
        "schema": SCHEMA,
        "kind": kind,
        "parameters": dict(parameters),
        "inputs": dict(inputs),
        "code": code,
        "outputs": listed,
        "details": dict(details or {}),
    }
    write_json(folder / name, manifest)
    return read_manifest(folder, name)


def read_json(path: Path, absent: str) -> Any:
    """A JSON file's content; ValueError, `absent` where it is not there, when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(absent) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_manifest(folder: Path, name: str = MANIFEST_NAME) -> dict[str, Any]:
    """The content of a folder's manifest; ValueError when it is missing or not one."""
    path = Path(folder) / name
    manifest: dict[str, Any] = read_json(path, f"no {name} in {folder}: the folder is not finished")
    if not isinstance(manifest, dict) or {*manifest} != _PARTS or manifest["schema"] != SCHEMA:
        raise ValueError(f"{path} is not a manifest of schema {SCHEMA}")
    return manifest


def manifest_problems(
    folder: Path,
    *,
    kind: str,
    parameters: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    code: str | None = None,
    name: str = MANIFEST_NAME,
) -> list[str]:
    """Why `folder` is not a valid result of this kind; an empty list when it is valid.

    Checks the given parameters, inputs and code, and where these are as given every output's bytes.
    """
    folder = Path(folder)
    try:
        manifest = read_manifest(folder, name)
    except ValueError as error:
        return [str(error)]
    problems = []
    if manifest["kind"] != kind:
        problems.append(f"kind is {manifest['kind']!r}, expected {kind!r}")
    for part, expected in (("parameters", parameters), ("inputs", inputs)):
        if expected is not None:
            problems += differences(part, manifest[part], expected)
    if code is not None and manifest["code"] != code:
        problems.append("the code has changed since")
    if problems:
        return problems
    checks = (_output_problem(folder, *output) for output in manifest["outputs"].items())
    return [problem for problem in checks if problem]


def manifest_digest(folder: Path) -> str:
    """SHA-256 of a folder's manifest, which stands for the whole folder as another step's input;
    raises as `read_manifest`."""
    read_manifest(folder)
    return file_sha256(Path(folder) / MANIFEST_NAME)


def differences(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How JSON data that was read differs from what it is to be, a line a key."""
    now = json.loads(_json_text(dict(now), f"cannot compare {name}"))
    lines = []
    for key in sorted({*was, *now}):
        if key not in was or key not in now or was[key] != now[key]:
            old, new = (repr(values.get(key, "absent")) for values in (was, now))
            long = len(old + new) > 80  # digests tell nobody anything
            how = "has changed" if long else f"is {old}, expected {new}"
            lines.append(f"{name}: {key} {how}")
    return lines


@contextmanager
def _claimed_temporary(path: Path) -> Iterator[Path]:
    """A new file beside `path`, locked until the block ends or this process does."""
    prefix, suffix = f".{path.stem}.", f".tmp{path.suffix}"
    while True:
        descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        try:
            _lock(descriptor)
            if Path(name).exists():  # else `remove_abandoned` saw it before it was locked
                yield Path(name)
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, blocking: bool = True) -> bool:
    """Lock an open file; False where another process has. Some file systems have no locks: True."""
    with suppress(OSError):
        return lock_descriptor(descriptor, blocking=blocking)
    return True


def _no_room(error: BaseException, folder: Path) -> int | None:
    """The system's number for the lack of room that an error of writing in `folder` comes from.

    Some writers say so without the file's name, numpy says only that fewer bytes were written, and
    torch complains of its own trailer.
    """
    cause: BaseException | None = error if isinstance(error, Exception) else None
    while cause is not None:
        if isinstance(cause, OSError):
            if cause.errno in _NO_ROOM:
                return cause.errno
            if cause.errno is None and shutil.disk_usage(folder).free < _FULL:
                return errno.ENOSPC
        cause = cause.__cause__ or cause.__context__
    return None


def _json_text(obj: Any, doing: str, **layout: Any) -> str:
    try:
        return json.dumps(obj, sort_keys=True, allow_nan=False, **layout)
    except ValueError as error:
        raise ValueError(f"{doing}: JSON has no NaN or infinity ({error})") from error


def _inside(folder: Path, output: Path) -> tuple[str, Path]:
    root, path = folder.resolve(), output.resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"output {output} lies outside the folder {folder}")
    return path.relative_to(root).as_posix(), path


def _output_problem(folder: Path, relative: str, expected: Mapping[str, Any]) -> str:
    try:
        _, path = _inside(folder, folder / relative)
    except ValueError as error:
        return str(error)
    if not path.is_file():
        return f"output {relative} is missing"
    if path.stat().st_size != expected["bytes"]:
        return f"output {relative} has another size than the manifest says"
    if file_sha256(path) != expected["sha256"]:
        return f"output {relative} has other bytes than the manifest says"
    return ""
