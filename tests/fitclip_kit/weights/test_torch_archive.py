"""Files of PyTorch are read as PyTorch reads them, and nothing in a hostile one is run."""

import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fitclip_kit.weights import torch_archive
from fitclip_kit.weights.torch_archive import Stub, read

# --- a small assembler of pickles -------------------------------------------------------------


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def number(value: int) -> bytes:
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + data


def group(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(maker: bytes, *arguments: bytes) -> bytes:
    return maker + group(*arguments) + b"R"


def program(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def storage(key: str = "0", kind: str = "FloatStorage", length: int = 4) -> bytes:
    fields = (text("storage"), name("torch", kind), text(key), text("cpu"), number(length))
    return group(*fields) + b"Q"


def tensor(offset: int, size: list[int], stride: list[int], **settings: Any) -> bytes:
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage(**settings),
        number(offset),
        group(*map(number, size)),
        group(*map(number, stride)),
        b"\x89",
        call(name("collections", "OrderedDict")),
    )


def write(
    path: Path,
    data: bytes,
    records: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for record, content in {"data.pkl": data, **(records or {})}.items():
            archive.writestr(f"archive/{record}", content)
    return path


FOUR = {"data/0": np.arange(4, dtype=np.float32).tobytes()}

# --- hostile pickles --------------------------------------------------------------------------

Attack = Callable[[str], bytes]


def touch(canary: str) -> bytes:
    return text(f"touch '{canary}'")


def python(canary: str) -> bytes:
    return text(f"open({canary!r}, 'w').close()")


def imported(module: str) -> bytes:
    return call(name("__builtin__", "__import__"), text(module))


def attribute(owner: bytes, attribute_name: str) -> bytes:
    return call(name("__builtin__", "getattr"), owner, text(attribute_name))


# Each is run by Python's own pickle: (what the refusal must name, the program's body).
WORKING: dict[str, tuple[str, Attack]] = {
    "os.system": ("os.system", lambda c: call(name("os", "system"), touch(c))),
    "posix.system": ("posix.system", lambda c: call(name("posix", "system"), touch(c))),
    "eval": ("builtins.eval", lambda c: call(name("__builtin__", "eval"), python(c))),
    "exec": ("builtins.exec", lambda c: call(name("builtins", "exec"), python(c))),
    "open": ("builtins.open", lambda c: call(name("__builtin__", "open"), text(c), text("w"))),
    "getattr chain": ("builtins.__import__",
                      lambda c: call(attribute(imported("os"), "system"), touch(c))),
    "attrgetter": ("operator.attrgetter", lambda c: call(
        call(call(name("operator", "attrgetter"), text("system")), imported("os")), touch(c))),
    "subprocess": ("subprocess.check_output", lambda c: call(
        name("subprocess", "check_output"), b"](" + text("touch") + text(c) + b"e")),
    "partial": ("functools.partial", lambda c: call(
        call(name("functools", "partial"), name("os", "system"), touch(c)))),
    "nested reduce": ("builtins.map", lambda c: call(
        name("__builtin__", "list"),
        call(name("__builtin__", "map"), name("os", "system"), b"](" + touch(c) + b"e"))),
    "beside a sound value": ("os.system", lambda c: (
        call(name("collections", "OrderedDict")) + call(name("os", "system"), touch(c)))),
    "OBJ": ("posix.system", lambda c: b"(" + name("posix", "system") + touch(c) + b"o"),
    "INST": ("unknown operation .*105", lambda c: b"(" + touch(c) + b"iposix\nsystem\n"),
    "NEWOBJ": ("email.message.Message", lambda c: (
        name("email.message", "Message") + b")\x81" + call(name("os", "system"), touch(c)))),
    "computed STACK_GLOBAL": ("posix.system", lambda c: (
        b"](" + text("posix") + b"q\x01" + text("system") + b"q\x02eh\x01h\x02\x93" + touch(c)
        + b"\x85R")),
    "torch.hub": ("torch.serialization.load", lambda c: call(
        name("torch.serialization", "load"), call(name("os", "system"), touch(c)))),
    "partly torch": ("torch._utils.torch", lambda c: (
        name("torch._utils", "torch") + call(name("os", "system"), touch(c)))),
}  # fmt: skip

# These do nothing in a plain pickle.loads, or need a loader of their own.
NAMESPACE = name("argparse", "Namespace")
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
OTHERS: list[tuple[str, bytes]] = [
    ("torch.hub.load", call(name("torch.hub", "load"), text("a/b"), text("c"))),
    ("torch.ops.load_library", call(name("torch.ops", "load_library"), text("x.so"))),
    ("torch.load", call(name("torch", "load"), text("x.pt"))),
    ("numpy.load", call(name("numpy", "load"), text("x.npy"))),
    ("copy_reg._reconstructor", call(name("copy_reg", "_reconstructor"), name("os", "system"))),
    ("pytorch_lightning.os.system", name("pytorch_lightning", "os.system")),
    ("omegaconfig.DictConfig", name("omegaconfig", "DictConfig")),
    ("unknown operation .*130", b"\x82\x01"),  # EXT1
    ("unknown operation .*80", b"Pevil\n"),  # PERSID
    ("unknown operation .*50", b"N2"),  # DUP
    ("persistent id 'file:///'", text("file:///") + b"Q"),
    ("persistent id", group(text("storage"), NAMESPACE, text("0"), text("cpu"), number(1)) + b"Q"),
    ("a call of 'os.system'", call(text("os.system"), text("x"))),
    (r"a call of Stub\(argparse.Namespace\)", call(call(NAMESPACE), text("x"))),
    ("a call of Stub", NAMESPACE + b"]R"),
    (r"getattr of Stub\(argparse.Namespace\)", attribute(call(NAMESPACE), "__class__")),
    ("getattr of 'x', 'join'", attribute(text("x"), "join")),
    ("BUILD of tensor", tensor(0, [4], [1]) + b"}b"),
    ("BUILD of Stub", NAMESPACE + b"}b"),
    ("a tensor made of 'x'", call(REBUILD, text("x"), number(0), b")", b")")),
    ("a tensor made of Stub",
     call(REBUILD, name("torch", "FloatStorage"), number(0), b")", b")")),
    ("a tensor of type Stub", call(name("torch._utils", "_rebuild_tensor_v3"), storage(), number(0),
                                   b")", b")", b"\x89", b"N", NAMESPACE)),
]  # fmt: skip


@pytest.mark.parametrize("kind", WORKING)
def test_what_python_would_run_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    culprit, attack = WORKING[kind]
    canary = tmp_path / "canary"
    hostile = program(attack(str(canary)))
    for protocol in (2, 4):
        path = write(tmp_path / "evil.pt", program(attack(str(canary)), protocol), FOUR)
        with pytest.raises(ValueError, match=culprit):
            read(path)
    assert not canary.exists()
    # The same bytes do their work where Python's own machine runs them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pickle.loads(hostile)
        except Exception as error:
            assert canary.exists(), error
    assert canary.exists()


@pytest.mark.parametrize(("culprit", "body"), OTHERS)
def test_other_hostile_pickles_are_refused_by_name(
    tmp_path: Path, culprit: str, body: bytes
) -> None:
    with pytest.raises(ValueError, match=culprit):
        read(write(tmp_path / "evil.pt", program(body), FOUR))


def test_a_stub_takes_no_attribute_from_its_state(tmp_path: Path) -> None:
    state = b"}(" + text("__class__") + text("x") + text("__setstate__") + text("y") + b"u"
    body = call(name("argparse", "Namespace")) + state + b"b"
    stub = read(write(tmp_path / "a.pt", program(body)))
    assert type(stub) is Stub
    assert stub.state == {"__class__": "x", "__setstate__": "y"}
    assert (stub.path, stub.args, stub.contents) == ("argparse.Namespace", (), [])


@pytest.mark.parametrize(
    "body",
    [
        *(tensor(offset, size, stride, **settings) for offset, size, stride, settings in (
            (1, [4], [1], {}), (4, [1], [1], {}), (0, [5], [1], {}), (0, [2, 2], [3, 1], {}),
            (0, [2, 2], [2**47, 1], {}), (-1, [1], [1], {}), (0, [-1], [1], {}),
            (0, [2], [-1], {}), (0, [2**60], [0], {}), (0, [2**21], [0], {}),
            (0, [2, 2], [1], {}), (0, [4], [1], {"length": 5}), (0, [1], [1], {"length": -1}),
            (0, [4], [1], {"length": 2**100}), (0, [4], [1], {"kind": "DoubleStorage"}),
            (0, [4], [1], {"key": "1"}), (0, [4], [1], {"key": "../../secret"}),
        )),
        b"", b"e", b"(e", b"\x85", b"N\x86", b"NNs", b"]N(u", b"}(Nu", b"h\x01", b"]N\x93",
        b"]" + number(1) + b"R", call(REBUILD), call(REBUILD, storage(), b"K\0", b"K\4", b"K\1"),
        call(REBUILD, storage(), b"K\0", text("4"), b"K\1"),
        b"}]Ns",
    ],
)  # fmt: skip
def test_broken_pickles_and_tensors_outside_their_record_are_refused(
    tmp_path: Path, body: bytes
) -> None:
    with pytest.raises(ValueError, match=r"evil\.pt (is no sound PyTorch file|is refused)"):
        read(write(tmp_path / "evil.pt", program(body), {**FOUR, "data/2": b""}))


def test_values_that_would_take_for_ever_are_refused(tmp_path: Path) -> None:
    doubled = b"N" + b"".join(b"q%c h%c\x86".replace(b" ", b"") % (i, i) for i in range(60))
    for body in (b"}" + doubled + b"Ns", call(doubled, b"N"), doubled + b"Q"):
        with pytest.raises(ValueError, match=r"evil\.pt"):
            read(write(tmp_path / "evil.pt", program(body)))
    deep = read(write(tmp_path / "deep.pt", program(b"]" * 50_000 + b"a" * 49_999)))
    assert isinstance(deep, list)
    itself = read(write(tmp_path / "loop.pt", program(b"]q\x01h\x01a")))
    assert itself[0] is itself


def sound_pickle() -> bytes:
    items = text("w") + tensor(0, [2, 2], [2, 1]) + text("n") + number(3)
    return program(b"}(" + items + text("s") + call(name("argparse", "Namespace")) + b"}bu")


def test_every_cut_of_a_pickle_is_refused(tmp_path: Path) -> None:
    whole = sound_pickle()
    assert set(read(write(tmp_path / "a.pt", whole, FOUR))) == {"w", "n", "s"}
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r"a\.pt"):
            read(write(tmp_path / "a.pt", whole[:end], FOUR))


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_pickles_give_a_value_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(sound_pickle())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path_factory.getbasetemp() / "damaged.pt", bytes(damaged), FOUR)
    try:
        read(path)
    except ValueError as error:
        assert "damaged.pt" in str(error)


# --- hostile and broken zips --------------------------------------------------------------------


SOUND = [("a/data.pkl", program(tensor(0, [4], [1]))), ("a/data/0", FOUR["data/0"])]


@pytest.mark.parametrize(
    ("entries", "edit", "problem"),
    [
        ([*SOUND, SOUND[1]], {}, "in one folder, each once"),
        ([*SOUND, ("../evil", b"x")], {}, "in one folder"),
        ([*SOUND, ("/evil", b"x")], {}, "in one folder"),
        ([*SOUND, ("b/data.pkl", b"x")], {}, "in one folder"),
        ([("data.pkl", b"x")], {}, "data.pkl is missing"),
        ([("a/b/data.pkl", b"x")], {}, "data.pkl is missing"),
        ([SOUND[0]], {}, "data/0 is missing"),
        ([*SOUND, ("a/byteorder", b"big")], {}, "big-endian"),
        (SOUND, {"compress_type": zipfile.ZIP_DEFLATED}, "is compressed"),
        (SOUND, {"CRC": 1}, "does not have its checksum"),
        (SOUND, {"file_size": 7}, "is compressed"),
        (SOUND, {"file_size": 2**31, "compress_size": 2**31}, "does not have its checksum"),
        (SOUND, {"header_offset": 2**31}, "damaged"),
        (SOUND, {"header_offset": 7}, "does not have its checksum"),
    ],
)
def test_hostile_zips_are_refused(tmp_path: Path, entries: Any, edit: Any, problem: str) -> None:
    path = tmp_path / "evil.pt"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for entry, content in entries:
            archive.writestr(entry, content)
        for info in archive.filelist:
            for key, value in edit.items():
                setattr(info, key, value)
    with pytest.raises(ValueError, match=problem):
        read(path)


def test_zip_bombs_and_long_pickles_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "evil.pt", program(b"N" * 50_000_000), None, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"data\.pkl is compressed"):
        read(path)
    monkeypatch.setattr(torch_archive, "MAX_PICKLE_BYTES", 1000)
    with pytest.raises(ValueError, match=r"1003 bytes, more than 1000"):
        read(write(path, program(b"N" * 1000)))


def test_cut_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.full((300,), 7, dtype=torch.uint8)}, path)
    whole = bytearray(path.read_bytes())
    for end in (5, 64, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"a\.pt is no sound PyTorch file: it is cut off"):
            read(path)
    whole[whole.index(b"\7" * 300) + 9] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="data/0 does not have its checksum"):
        read(path)


# --- honest files, against torch.load and torch.jit.load ----------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_read_gives_what_was_saved(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "state.pt"
    weight = torch.arange(12.0).reshape(3, 4)
    types = (torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex128,
             torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
             torch.uint16, torch.float8_e4m3fn)  # fmt: skip
    content = {
        "types": [weight.to(dtype) for dtype in types],
        "views": [weight.T, weight[1:], weight[:, ::2], weight[0, 0], weight.expand(2, 3, 4)],
        "empty": torch.empty(0, 3),
        "scalars": (None, True, False, -1, 300, 70_000, 2**70, -(2**70), 0.1, "é", "x" * 300, ()),
        "keys": {1: [], None: {}, 2.5: {}, "a": [1]},
    }
    more = OrderedDict(b=torch.nn.Parameter(weight))
    torch.save([content, more], path, pickle_protocol=protocol)
    assert repr(read(path)) == repr([content, {"b": weight}])  # types, shapes and values


def test_shared_memory_stays_shared_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"w": weight, "t": weight.T, "row": weight[1]}, path)
    before = path.read_bytes()
    found = read(path)
    found["w"][1, 2] = 50
    assert found["t"][2, 1] == found["row"][2] == 50
    assert path.read_bytes() == before


def test_a_record_that_is_not_aligned(tmp_path: Path) -> None:
    for length in range(1, 10):
        path = write(tmp_path / "a.pt", program(tensor(0, [4], [1])), {"x" * length: b"", **FOUR})
        values = read(path)
        assert values.tolist() == [0, 1, 2, 3]
        assert values.data_ptr() % 16 == 0


def test_known_foreign_objects_become_stubs(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    content: dict[str, Any] = {
        "pathlib.PosixPath": (Path("a/b"), ("a", "b")),
        "numpy._core.multiarray.scalar": (np.float64(1.5), None),
        "torch.mean": (torch.mean, None),
        "torch.float16": (torch.float16, None),
        "torch.device": (torch.device("cuda:1"), ("cuda", 1)),
        "_codecs.encode": (b"ab", ("ab", "latin1")),
        "collections.defaultdict": (defaultdict(int, a=1), None),
    }
    torch.save({name: value for name, (value, _) in content.items()}, path)
    for name, stub in read(path).items():
        assert (stub.path, repr(stub)) == (name, f"Stub({name})")
        assert content[name][1] in (None, stub.args)
    assert stub.contents == [("a", 1)]
    torch.save(torch.Size([2, 3]), path)
    assert read(path) == (2, 3)


class Module(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T.half())
        self.register_buffer("steps", torch.tensor(3))
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.weight.sum() + self.sizes[0]


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_torchscript_equals_torch_jit_load(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.script(Module()), str(path))
    expected = torch.jit.load(str(path)).state_dict()
    root = read(path)
    assert root.module.startswith("__torch__")
    assert root.state["sizes"] == [1, 2]
    linear = {f"linear.{name}": value for name, value in root.state["linear"].state.items()}
    for name, value in expected.items():
        assert torch.equal((root.state | linear)[name], value), name
