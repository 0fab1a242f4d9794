import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitclip_kit.store import files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
MADE: dict = {
    "kind": "test",
    "parameters": {"alpha": 0.4, "sizes": (1, 2)},
    "inputs": {"data": "d1"},
    "code": "c1",
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_path_replaces_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result.txt"
    with files.atomic_path(target) as temporary:
        assert (temporary.parent, temporary.suffix) == (target.parent, ".txt")
        temporary.write_text("first")
        assert not target.exists()
    (tmp_path / "usual").touch()
    assert target.stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(KeyboardInterrupt), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "first"
    assert names(target.parent) == ["result.txt"]


@given(JSON)
def test_json_digest_is_that_of_canonical_json(obj: object) -> None:
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"))
    assert files.json_digest(obj) == hashlib.sha256(text.encode()).hexdigest()


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": [1, None], "a": "é"})
    content = b'{\n "a": "\\u00e9",\n "b": [\n  1,\n  null\n ]\n}\n'
    with pytest.raises(ValueError, match="NaN"):
        files.write_json(path, {"a": float("nan")})
    assert path.read_bytes() == content and names(tmp_path) == ["a.json"]
    assert files.file_sha256(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(ValueError, match="NaN"):
        files.json_digest([float("inf")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.bin").write_bytes(b"abc")
    (tmp_path / "b.bin").write_bytes(b"")
    outputs = [tmp_path / "sub" / "a.bin", Path("b.bin")]
    files.write_manifest(tmp_path, **MADE, outputs=outputs, details={"note": "x"})
    return tmp_path


def test_a_manifest_holds_and_is_reproducible(folder: Path) -> None:
    content = files.read_manifest(folder)
    # The SHA-256 of "abc" from FIPS 180-2, appendix B.1.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert list(content["outputs"]) == ["b.bin", "sub/a.bin"]
    assert content["outputs"]["sub/a.bin"] == {"bytes": 3, "sha256": digest}
    assert (content["schema"], content["details"]) == (1, {"note": "x"})
    assert not files.manifest_problems(folder, **MADE)
    assert not files.manifest_problems(folder, kind="test")
    first = files.manifest_digest(folder)
    made = MADE | {"parameters": {"sizes": [1, 2], "alpha": 0.4}, "details": {"note": "x"}}
    again = files.write_manifest(folder, **made, outputs=[Path("b.bin"), Path("sub/a.bin")])
    assert files.manifest_digest(folder) == first
    assert again == content


def test_folders_may_be_named_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("store")
    outputs = [folder / "a", folder / "store" / "a"]
    for output in outputs:
        files.write_text(output, str(output))
    files.write_manifest(folder, **MADE, outputs=outputs)
    assert sorted(files.read_manifest(folder)["outputs"]) == ["a", "store/a"]
    for same in (folder, tmp_path / "store"):
        assert not files.manifest_problems(same, kind="test")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"kind": "other"}, "kind is 'test', expected 'other'"),
        ({"parameters": {"alpha": 0.5, "sizes": [1, 2]}}, "alpha is 0.4, expected 0.5"),
        ({"parameters": {"alpha": 0.4}}, "sizes is .* expected 'absent'"),
        ({"inputs": {"data": "d1", "more": "x"}}, "more is 'absent', expected 'x'"),
        ({"inputs": {"data": "d" * 80}}, "inputs: data has changed"),
        ({"code": "c2"}, "code has changed"),
    ],
)
def test_what_does_not_fit_is_named(folder: Path, arguments: dict, problem: str) -> None:
    (found,) = files.manifest_problems(folder, **{"kind": "test", **arguments})
    assert re.search(problem, found)


def test_damage_is_seen(folder: Path) -> None:
    target = folder / "sub" / "a.bin"
    for content, problem in ((b"abd", "other bytes"), (b"ab", "another size"), (None, "missing")):
        target.unlink() if content is None else target.write_bytes(content)
        (found,) = files.manifest_problems(folder, kind="test")
        assert found.startswith("output sub/a.bin ") and problem in found
    manifest = files.read_manifest(folder)
    manifest["outputs"] = {"../outside": {"bytes": 1, "sha256": "x"}}
    files.write_json(folder / "manifest.json", manifest)
    assert "outside the folder" in files.manifest_problems(folder, kind="test")[0]
    (folder.parent / "x").touch()
    for name, message in (("../x", "lies outside"), ("absent", "write it first")):
        with pytest.raises(ValueError, match=message):
            files.write_manifest(folder, **MADE, outputs=[folder / name])


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"schema": 1}'])
def test_unreadable_manifests(folder: Path, text: str | None) -> None:
    manifest = folder / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    (problem,) = files.manifest_problems(folder, kind="test")
    assert ("not finished" in problem) == (text is None)
    with pytest.raises(ValueError):
        files.manifest_digest(folder)
