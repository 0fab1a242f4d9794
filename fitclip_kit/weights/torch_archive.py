"""PyTorch's files, read without running anything from them: torch.save's zip and TorchScript.

A pickle is a program. Python's own pickle machine runs it here, without the operations that
import, call or set attributes. (`torch.load(weights_only=True)` runs no code either, but refuses
TorchScript and the protocols 4 and 5, checks no checksums, and may hash a key for ever.)
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

import torch

MAX_PICKLE_BYTES: Final = 16 * 2**20  # a real one has some hundred bytes for each tensor
MAX_REPEATED: Final = 2**20  # elements of a view that repeats its record's elements

_KEPT: Final = {getattr(pickle, name)[0] for name in (
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_DICT",
    "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL",
    "BINPERSID",
)}  # fmt: skip
_STORAGES: Final = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
_DTYPES: Final = {name: value for name, value in vars(torch).items() if type(value) is torch.dtype}
_PATHS: Final = "PosixPath PurePosixPath WindowsPath PureWindowsPath"
_KNOWN: Final = {
    f"{module}.{name}"
    for module, names in {
        "_codecs": "encode",
        "argparse": "Namespace",
        # long and unicode: what protocol 2 calls int and str
        "builtins": "bool bytes dict float getattr int list long set str tuple unicode",
        "collections": "OrderedDict defaultdict",
        "numpy": "dtype",
        "numpy._core.multiarray": "scalar",
        "numpy.core.multiarray": "scalar",
        "parse_config": "ConfigParser",
        "pathlib": _PATHS,
        "pathlib._local": _PATHS,
        "torch": " ".join(["Size", "device", *_DTYPES, *_STORAGES]),
        # PyTorch's reductions, such as torch.mean, are pickled as getattr(this class, "mean").
        "torch._C": "_VariableFunctions _VariableFunctionsClass",
        "torch._utils": "_rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter "
        "_rebuild_parameter_with_state",
        "torch.jit._pickle": "build_boollist build_doublelist build_intlist build_tensorlist "
        "restore_type_tag",
        "torch.storage": "UntypedStorage",
        "typing": "Any",
    }.items()
    for name in names.split()
}
# Packages of which every class is known; __torch__ stands for TorchScript's own.
_KNOWN_PACKAGES: Final = {"__torch__", "lightning", "lightning_fabric", "omegaconf",
                          "pytorch_lightning", "torchmetrics"}  # fmt: skip


@dataclass(eq=False, slots=True)
class Stub:
    """An object of a foreign class that was not made: only what the file says of it.

    `args` are the arguments of its making, or None where the file names the class itself; `state`
    is what its `__dict__` would have got, `contents` the pairs of key and value put into it.
    """

    module: str
    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    contents: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Module and name, with a dot between."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"Stub({self.path})"


def read(path: str | Path) -> Any:
    """Read a file of torch.save's zip format or a TorchScript archive; nothing in it is run.

    Returns:
        What was saved: dict (also for an OrderedDict), list, tuple, str, int, float, bool, None,
        tensors (also for parameters), and a `Stub` for an object of a known foreign class, such as
        a TorchScript module. The tensors are private views of the mapped file: untouched ones cost
        no memory, and writing to them leaves the file alone.

    Raises: ValueError when the file is of another format, cut off or damaged, or asks for anything
        but tensors, plain containers and the known foreign classes; that is named.

    Source: https://docs.pytorch.org/docs/stable/notes/serialization.html; PEP 307 and PEP 3154.
    """
    path = Path(path)
    try:
        return _Machine(_Archive(path)).load()
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(
            f"{path} is no sound PyTorch file: it is cut off, damaged or asks for an unknown "
            f"operation ({type(error).__name__}: {error}); fetch it again"
        ) from error


class _RefusedError(ValueError):
    pass


class _Archive:
    """The stored records of a zip, by their names below its one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            entries = archive.infolist()
        parts = [entry.filename.partition("/") for entry in entries]
        if len({folder for folder, _, _ in parts}) != 1 or len(set(parts)) < len(parts):
            self.fail("its records do not lie in one folder, each once")
        self._entries = {part[2]: entry for part, entry in zip(parts, entries, strict=True)}
        self._records: dict[str, torch.Tensor] = {}
        if "byteorder" in self._entries and self.content("byteorder") != b"little":
            self.fail("its numbers are big-endian; only little-endian files are read")

    def fail(self, problem: str) -> NoReturn:
        raise _RefusedError(f"{self.path} is no sound PyTorch file: {problem}")

    def content(self, name: str) -> bytes:
        return self.record(name).numpy().tobytes()

    def record(self, name: str) -> torch.Tensor:
        """A record of the right checksum, as a uint8 tensor over the mapped file's memory."""
        if name not in self._records:
            if name not in self._entries:
                self.fail(f"the record {name} is missing")
            entry = self._entries[name]
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                self.fail(f"the record {name} is compressed, which torch.save never does")
            lengths = struct.unpack_from("<HH", self._mapped, entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(lengths)
            data = memoryview(self._mapped)[start : start + entry.file_size]
            if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
                self.fail(f"the record {name} does not have its checksum; fetch the file again")
            record = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0).byte()
            # torch.save aligns records; another zip program may not.
            self._records[name] = record if record.data_ptr() % 16 == 0 else record.clone()
        return self._records[name]


class _Machine(pickle._Unpickler):
    """Python's pickle machine without a way to import, to call or to set an attribute."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, archive: _Archive) -> None:
        program = archive.content("data.pkl")
        if len(program) > MAX_PICKLE_BYTES:
            archive.fail(f"its pickle has {len(program)} bytes, more than {MAX_PICKLE_BYTES}")
        super().__init__(io.BytesIO(program), encoding="utf-8")
        self._archive = archive

    def find_class(self, module: str, name: str) -> Stub:
        # torch.save writes the module's name of Python 2.
        stub = Stub("builtins" if module == "__builtin__" else module, name)
        in_package = module.split(".")[0] in _KNOWN_PACKAGES and "." not in name
        if not in_package and stub.path not in _KNOWN:
            self._refuse(stub.path)
        return stub

    def persistent_load(self, pid: Any) -> Stub:
        """Where a tensor's elements lie, unread: the storage's class with record and length."""
        match pid:
            case ("storage", Stub(args=None) as kind, str(key), _, int(length), *_):
                if kind.name in _STORAGES and kind.module in ("torch", "torch.storage"):
                    return Stub(kind.module, kind.name, (key, length))
        self._refuse(f"the persistent id {reprlib.repr(pid)}")

    def _refuse(self, what: str) -> NoReturn:
        raise _RefusedError(
            f"{self._archive.path} is refused, and nothing in it was run: its pickle asks for "
            f"{what}. Only tensors, plain containers and a few known classes are read. If you "
            "trust its maker, load it where it was made and save the state dict alone"
        )

    def _reduce(self) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        if not isinstance(maker, Stub) or maker.args is not None or type(arguments) is not tuple:
            self._refuse(f"a call of {reprlib.repr(maker)} with {reprlib.repr(arguments)}")
        self.stack.append(self._make(maker, arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Stub) and target.args is not None:
            target.state = state
        elif type(target) is not dict:  # a dict's attributes, PyTorch's versions, are not kept
            self._refuse(f"BUILD of {reprlib.repr(target)}")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list[Any]) -> None:
        pairs = list(zip(items[::2], items[1::2], strict=True))
        target = self.stack[-1]
        # A nested tuple can take for ever to hash.
        simple = all(isinstance(key, str | bytes | int | float | Stub | None) for key in items[::2])
        if isinstance(target, Stub):
            target.contents.extend(pairs)
        elif type(target) is dict and simple:
            target.update(pairs)
        else:
            self._refuse(f"items {reprlib.repr(pairs)} of a {type(target).__name__}")

    def _make(self, maker: Stub, arguments: tuple[Any, ...]) -> Any:
        match maker.path:
            case "collections.OrderedDict" if not arguments:
                return {}
            case "torch.Size":
                return tuple(arguments[0])
            case "torch._utils._rebuild_tensor_v2":
                return self._tensor(arguments, None)
            case "torch._utils._rebuild_tensor_v3":
                return self._tensor(arguments, arguments[6])
            case path if path.startswith(("torch._utils._rebuild_param", "torch.jit._pickle.")):
                return arguments[0]
            case "builtins.getattr":
                owner, name = arguments
                if not (isinstance(owner, Stub) and owner.module == "torch._C"):
                    self._refuse(f"builtins.getattr of {reprlib.repr(owner)}, {name!r}")
                return Stub("torch", str(name))
        return Stub(maker.module, maker.name, arguments)

    def _tensor(self, arguments: tuple[Any, ...], dtype: Any) -> torch.Tensor:
        """A view of a record; PyTorch refuses one that does not lie in it."""
        storage, offset, size, stride = arguments[:4]
        match storage:
            case Stub(args=(str(key), int(length))) if storage.name in _STORAGES:
                kind = _STORAGES[storage.name]
            case _:
                self._refuse(f"a tensor made of {reprlib.repr(storage)}")
        record = self._archive.record(f"data/{key}")
        if not 0 <= length * kind.itemsize <= len(record):
            self._archive.fail(f"data/{key} has {len(record)} bytes, not {length} of {kind}")
        if dtype is not None:
            if not (isinstance(dtype, Stub) and dtype.name in _DTYPES):
                self._refuse(f"a tensor of type {reprlib.repr(dtype)}")
            kind = _DTYPES[dtype.name]
        elements = record.view(kind)
        if math.prod(size) > max(len(elements), MAX_REPEATED):
            self._archive.fail(f"a tensor of size {reprlib.repr(size)} repeats data/{key}")
        return elements.as_strided(size, stride, offset)

    dispatch: ClassVar[dict[int, Any]] = {
        code: function for code, function in pickle._Unpickler.dispatch.items() if code in _KEPT
    } | {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
    }
