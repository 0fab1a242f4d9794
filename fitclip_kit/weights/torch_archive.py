"""PyTorch's files, read without running anything from them: torch.save's zip and TorchScript.

A pickle is a program. This module runs it on a machine of its own that knows only the opcodes that
honest files need: it makes containers, numbers, text and views of the file's records. It cannot
import, call or set an attribute, so a foreign class is at most a `Stub`, and an unknown one is
refused by name.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import torch

MAX_PICKLE_BYTES: Final = 16 * 2**20  # a real one has some hundred bytes for each tensor
MAX_ENTRIES: Final = 100_000
MAX_REPEATED: Final = 2**20  # elements of a view that repeats its record's elements

_ZIP_START: Final = b"PK\x03\x04"
_LFS_START: Final = b"version https://git-lfs"
_STORAGES: Final = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_DTYPES: Final = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype) and (value.is_floating_point or value.is_complex)
} | {
    name: getattr(torch, name)
    for name in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
}
_VALUES: Final = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OPCODES: Final = _VALUES | _CONSTANTS.keys() | _TUPLES.keys() | {
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE",
    "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET",
    "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID",
}  # fmt: skip
_REBUILDERS: Final = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "builtins.getattr",  # of one class only, see _getattr
}
_SCRIPT_REBUILDERS: Final = {
    f"torch.jit._pickle.{name}"
    for name in (
        "build_boollist",
        "build_doublelist",
        "build_intlist",
        "build_tensorlist",
        "restore_type_tag",
    )
}
# PyTorch's reductions, such as torch.mean, are pickled as getattr(this class, "mean").
_REDUCTIONS: Final = {"torch._C._VariableFunctions", "torch._C._VariableFunctionsClass"}
_INERT: Final = _REDUCTIONS | {
    "_codecs.encode",
    "argparse.Namespace",
    "collections.defaultdict",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "parse_config.ConfigParser",
    "torch.device",
    "typing.Any",
    *(
        f"builtins.{name}"  # long and unicode: what protocol 2 calls int and str
        for name in ("bool", "bytes", "dict", "float", "int", "list", "long", "set", "str")
    ),
    *(f"builtins.{name}" for name in ("tuple", "unicode")),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ),
    *(f"torch.{name}" for name in (*_STORAGES, *_DTYPES)),
    "torch.storage.UntypedStorage",
}
_INERT_PACKAGES: Final = {
    "lightning",
    "lightning_fabric",
    "omegaconf",
    "pytorch_lightning",
    "torchmetrics",
}


@dataclass(eq=False, slots=True)
class Stub:
    """An object of a foreign class that was not made: only what the file says of it.

    `args` are the arguments of its making, or None where the file names the class itself; `state`
    is what its `__setstate__` or `__dict__` would have got, `contents` what it would have been
    filled with: values, or pairs of key and value.
    """

    module: str
    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    contents: list[Any] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Module and name, with a dot between."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"Stub({self.path})"


def read(path: str | Path) -> Any:
    """Read a file of torch.save's zip format or a TorchScript archive; nothing in it is run.

    Args:
        path: the file. Its tensors are private views of the mapped file, on the CPU, without
            gradients: untouched ones cost no memory, and writing to them leaves the file alone.

    Returns:
        What was saved: dict, list, tuple, str, bytes, int, float, bool, None and tensors, and a
        `Stub` for an object of a known foreign class, such as a TorchScript module. An
        OrderedDict is a dict, without attributes that were set on it; a parameter is a tensor,
        without attributes too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another format, cut off or damaged, or it asks for anything but
            tensors, plain containers and the known foreign classes; that is named.

    Source: the format of `torch.save`, https://docs.pytorch.org/docs/stable/notes/serialization.html
        and of Python's pickle, PEP 307 and PEP 3154.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(len(_LFS_START))
        if not start.startswith(_ZIP_START):
            raise ValueError(_not_a_zip(path, start))
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    archive = _Archive(path, mapped)
    return _Machine(archive).run(archive.small_record("data.pkl", MAX_PICKLE_BYTES))


def is_zip(path: str | Path) -> bool:
    """Whether the file starts as a zip does: torch.save's format, or a TorchScript archive.

    Raises: FileNotFoundError when there is no such file.
    """
    with open(path, "rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def _not_a_zip(path: Path, start: bytes) -> str:
    if start.startswith(_LFS_START):
        return f"{path} is a git-LFS pointer, not the weights: fetch the file it stands for"
    if start.startswith(b"\x80"):
        return (
            f"{path} is a bare pickle, such as torch.save wrote before version 1.6; it is not "
            "read. Load it where it was made, with torch.load(path, weights_only=True), and save "
            "it again with torch.save, or with safetensors"
        )
    return f"{path} is no PyTorch file: it starts with {start[:8]!r} where a zip should"


class _DirectoryFile(io.FileIO):
    """A file whose reader cannot be talked into reading a huge table of entries at once."""

    def read(self, size: int | None = -1, /) -> Any:
        if size is not None and size > 256 * MAX_ENTRIES:
            raise zipfile.BadZipFile(f"a table of entries of {size} bytes is too large")
        return super().read(size)


class _Archive:
    """The stored records of a zip, by their names below its one folder."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path = path
        self._mapped = mapped
        entries = self._entries()
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        roots = [root for root in roots if root.count("/") == 1]
        if len(roots) != 1:
            self.fail(f"it has {len(roots)} records data.pkl where torch.save writes one")
        self._entry = {
            name.removeprefix(roots[0]): entry
            for name, entry in entries.items()
            if name.startswith(roots[0])
        }
        self._place = self._places()
        self._records: dict[str, torch.Tensor] = {}
        self.torchscript = "constants.pkl" in self._entry
        order = self.small_record("byteorder", 16) if "byteorder" in self._entry else b"little"
        if order != b"little":
            self.fail(f"its byte order is {order!r}; only little-endian files are read")

    def fail(self, problem: str) -> NoReturn:
        """Raise ValueError, naming the file."""
        raise ValueError(f"{self.path} is not a sound PyTorch file: {problem}")

    def small_record(self, name: str, limit: int) -> bytes:
        """A small record's bytes, checked."""
        start, size = self._record_place(name)
        if size > limit:
            self.fail(f"the record {name} has {size} bytes; more than {limit} are not read")
        data = self._mapped[start : start + size]
        self._check_sum(name, data)
        return data

    def record(self, name: str) -> torch.Tensor:
        """A record as a uint8 tensor that shares the mapped file's memory."""
        if name not in self._records:
            start, size = self._record_place(name)
            if size == 0:
                return torch.empty(0, dtype=torch.uint8)
            self._check_sum(name, memoryview(self._mapped)[start : start + size])
            found = torch.frombuffer(self._mapped, dtype=torch.uint8, count=size, offset=start)
            # torch.save aligns records; another zip program may not.
            self._records[name] = found if found.data_ptr() % 16 == 0 else found.clone()
        return self._records[name]

    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        try:
            with _DirectoryFile(self.path) as file, zipfile.ZipFile(file) as archive:
                found = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError) as error:
            self.fail(f"it is cut off or damaged ({error}); fetch it again")
        if len(found) > MAX_ENTRIES:
            self.fail(f"it has {len(found)} entries; more than {MAX_ENTRIES} are not read")
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in found:
            parts = entry.filename.split("/")
            if entry.filename in entries:
                self.fail(f"it has two entries {entry.filename!r}")
            if "\\" in entry.filename or ".." in parts or not parts[0] or ":" in parts[0]:
                self.fail(f"the entry {entry.filename!r} lies outside its folder")
            entries[entry.filename] = entry
        return entries

    def _places(self) -> dict[str, tuple[int, int]]:
        """Start and size in bytes of every stored record; none may overlap another."""
        places = {}
        for name, entry in self._entry.items():
            # TorchScript compresses its program's text, which is not read.
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                continue
            if entry.header_offset < 0:
                self.fail(f"the record {name} begins before the file")
            header = self._mapped[entry.header_offset : entry.header_offset + 30]
            if len(header) < 30 or not header.startswith(_ZIP_START):
                self.fail(f"the record {name} is not where the table of entries says")
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
            if entry.compress_size != entry.file_size:
                self.fail(f"the stored record {name} has two sizes")
            if start + entry.file_size > len(self._mapped):
                self.fail(f"the record {name} ends beyond the file; fetch it again")
            places[name] = (start, entry.file_size)
        end, last = 0, ""
        for (start, size), name in sorted((place, name) for name, place in places.items()):
            if start < end:
                self.fail(f"the records {last} and {name} overlap")
            end, last = start + size, name
        return places

    def _record_place(self, name: str) -> tuple[int, int]:
        if name not in self._entry:
            self.fail(f"the record {name} is missing")
        if name not in self._place:
            self.fail(f"the record {name} is compressed or encrypted, which torch.save never does")
        return self._place[name]

    def _check_sum(self, name: str, data: bytes | memoryview) -> None:
        if zlib.crc32(data) != self._entry[name].CRC:
            self.fail(f"the record {name} does not have its checksum; fetch the file again")


class _Machine:
    """The pickle machine: a stack, a memo, and no way to call anything."""

    def __init__(self, archive: _Archive) -> None:
        self._archive = archive
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """What the program makes; ValueError where it asks for anything else."""
        self._refuse_early(program)
        try:
            for opcode, argument in self._operations(program):
                if opcode == "STOP":
                    return self._stack.pop()
                self._step(opcode, argument)
        except (IndexError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            self._archive.fail(f"its pickle is damaged ({type(error).__name__}: {error})")
        self._archive.fail("its pickle is cut off")

    def _operations(self, program: bytes) -> Iterator[tuple[str, Any]]:
        operations = pickletools.genops(program)
        while True:
            try:
                opcode, argument, _ = next(operations)
            except StopIteration:
                return
            except (ValueError, OverflowError, struct.error) as error:
                self._archive.fail(f"its pickle is damaged ({error})")
            yield opcode.name, argument

    def _refuse_early(self, program: bytes) -> None:
        """Name everything foreign at once, before anything is made."""
        refused: dict[str, None] = {}
        for opcode, argument in self._operations(program):
            if opcode == "GLOBAL":
                stub = _class(*argument.split(" ", 1))
                if not self._is_known(stub):
                    refused[stub.path] = None
            elif opcode not in _OPCODES:
                name = "" if argument is None else f" {str(argument)[:80]!r}"
                refused[f"the opcode {opcode}{name}"] = None
            elif opcode == "LONG_BINPUT" and argument > len(program):
                refused[f"the memo's index {argument}"] = None
        if refused:
            self._refuse(", ".join(refused))

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"{self._archive.path} is refused, and nothing in it was run: its pickle asks for "
            f"{what}. Only tensors, plain containers and a few known classes are read. If you "
            "trust its maker, load it where it was made and save the state dict alone"
        )

    def _is_known(self, stub: Stub) -> bool:
        if stub.path in _REBUILDERS or stub.path in _INERT:
            return True
        root = stub.module.split(".")[0]
        if root == "__torch__" or stub.path in _SCRIPT_REBUILDERS:
            return self._archive.torchscript
        return root in _INERT_PACKAGES and "." not in stub.name

    def _known(self, module: Any, name: Any) -> Stub:
        if not (type(module) is str and type(name) is str):
            raise TypeError("a class whose name is no text")
        found = _class(module, name)
        if not self._is_known(found):
            self._refuse(found.path)
        return found

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case _ if opcode in _VALUES:
                stack.append(argument)
            case _ if opcode in _CONSTANTS:
                stack.append(_CONSTANTS[opcode])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case _ if opcode in _TUPLES:
                size = _TUPLES[opcode]
                if len(stack) < size:
                    raise IndexError(f"{opcode} of {len(stack)} values")
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                items = self._to_mark()
                self._stack.append(tuple(items))
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "APPEND":
                item = stack.pop()
                self._extend(stack[-1], [item])
            case "APPENDS":
                items = self._to_mark()
                self._extend(self._stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set(stack[-1], [key, value])
            case "SETITEMS":
                items = self._to_mark()
                self._set(self._stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(self._known(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self._known(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, maker = stack.pop(), stack.pop()
                stack.append(self._make(maker, arguments))
            case "BUILD":
                state = stack.pop()
                self._build(stack[-1], state)
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Stub):
            target.contents.extend(items)
        elif type(target) is list:
            target.extend(items)
        else:
            raise TypeError(f"APPEND to a {type(target).__name__}")

    def _set(self, target: Any, items: list[Any]) -> None:
        pairs = list(zip(items[::2], items[1::2], strict=True)) if len(items) % 2 == 0 else None
        if pairs is None:
            raise TypeError("SETITEMS of an odd number of values")
        if isinstance(target, Stub):
            target.contents.extend(pairs)
        elif type(target) is dict:
            for key, value in pairs:
                # A nested tuple can take for ever to hash.
                if not isinstance(key, str | bytes | int | float | Stub | None):
                    raise TypeError(f"a {type(key).__name__} as a dictionary's key")
                target[key] = value
        else:
            raise TypeError(f"SETITEM on a {type(target).__name__}")

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, Stub) and target.args is not None:
            target.state = state
        elif type(target) is not dict:  # a dict's attributes, PyTorch's versions, are not kept
            self._refuse(f"BUILD of {reprlib.repr(target)}")

    def _make(self, maker: Any, arguments: Any) -> Any:
        if not isinstance(maker, Stub) or maker.args is not None:
            self._refuse(f"a call of {reprlib.repr(maker)}, which is no class")
        if type(arguments) is not tuple:
            raise TypeError(f"{maker.path} called with a {type(arguments).__name__}")
        match maker.path:
            case "collections.OrderedDict":
                made: dict[Any, Any] = {}
                for pair in arguments[0] if arguments else ():
                    self._set(made, list(pair))
                return made
            case "torch.Size":
                return tuple(arguments[0])
            case "torch._utils._rebuild_tensor_v2":
                return self._tensor(*arguments[:4])
            case "torch._utils._rebuild_tensor_v3":
                storage, offset, size, stride = arguments[:4]
                return self._tensor(storage, offset, size, stride, arguments[6])
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
                if not isinstance(arguments[0], torch.Tensor):
                    raise TypeError(f"a parameter made of a {type(arguments[0]).__name__}")
                return arguments[0]
            case "builtins.getattr":
                return self._getattr(*arguments)
            case path if path in _SCRIPT_REBUILDERS:
                return arguments[0]
            case _:
                return Stub(maker.module, maker.name, arguments)

    def _getattr(self, owner: Any, name: Any) -> Stub:
        """A reduction of PyTorch's, by name; any other attribute is refused."""
        if not (isinstance(owner, Stub) and owner.path in _REDUCTIONS and type(name) is str):
            self._refuse(f"builtins.getattr of {reprlib.repr(owner)}, {reprlib.repr(name)}")
        return Stub("torch", name)

    def _storage(self, persistent_id: Any) -> Stub:
        """Where a tensor's elements lie, unread: the storage's class with record and length."""
        match persistent_id:
            case ("storage", Stub(args=None) as kind, str(), _, int(), *_) if (
                kind.name in _STORAGES and kind.module in ("torch", "torch.storage")
            ):
                _, _, key, _, length = persistent_id[:5]
                return Stub(kind.module, kind.name, (key, length))
        self._refuse(f"the persistent id {reprlib.repr(persistent_id)}")

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> Any:
        """A view of a record, whose bounds are checked before PyTorch sees them."""
        match storage:
            case Stub(args=(str(key), int(length))) if storage.name in _STORAGES:
                kind = _STORAGES[storage.name]
            case _:
                self._refuse(f"a tensor made of {reprlib.repr(storage)}")
        record = self._archive.record(f"data/{key}")
        if not 0 <= length * kind.itemsize <= len(record):
            self._archive.fail(
                f"the record data/{key} has {len(record)} bytes, not what its {kind} need"
            )
        if dtype is not None:
            if not (isinstance(dtype, Stub) and dtype.path.removeprefix("torch.") in _DTYPES):
                self._refuse(f"a tensor of type {reprlib.repr(dtype)}")
            length = length * kind.itemsize // _DTYPES[dtype.name].itemsize
            kind = _DTYPES[dtype.name]
        numbers = (offset, *size, *stride)
        sound = all(type(number) is int and 0 <= number < 2**48 for number in numbers)
        if not sound or len(size) != len(stride) or len(size) > 64:
            self._archive.fail(
                f"a tensor of data/{key} has size {reprlib.repr(size)}, strides "
                f"{reprlib.repr(stride)} and offset {reprlib.repr(offset)}"
            )
        elements = math.prod(size)
        if elements == 0:
            return torch.empty(0, dtype=kind).as_strided(size, stride)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= length or elements > max(length, MAX_REPEATED):
            self._archive.fail(
                f"a tensor of size {reprlib.repr(size)}, strides {reprlib.repr(stride)} and "
                f"offset {offset} reaches beyond the {length} elements of data/{key}"
            )
        elements_of_record = record[: length * kind.itemsize].view(kind)
        return elements_of_record.as_strided(size, stride, offset)


def _class(module: str, name: str) -> Stub:
    """A class by name; Python 2's name of the built-in module, which torch.save writes, is ours."""
    return Stub("builtins" if module == "__builtin__" else module, name)
