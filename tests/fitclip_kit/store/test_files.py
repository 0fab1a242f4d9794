import hashlib
import json
import re
import subprocess
import sys
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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_path_replaces_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result.txt"
    with files.atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("first")
        assert not target.exists()
    assert target.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "first"
    assert names(target.parent) == ["result.txt"]


def test_results_get_the_usual_permissions(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_only_abandoned_temporary_files_are_removed(tmp_path: Path) -> None:
    abandoned = tmp_path / "deep" / ".x.ab_12345.tmp.txt"
    abandoned.parent.mkdir()
    abandoned.touch()
    (tmp_path / ".hidden.txt").touch()
    with files.atomic_path(tmp_path / "a.txt") as living:
        living.write_text("x")
        assert files.remove_abandoned(tmp_path) == [abandoned]
    assert names(tmp_path) == [".hidden.txt", "a.txt", "deep"]
    assert names(abandoned.parent) == []


@given(JSON)
def test_json_digest_is_that_of_canonical_json(obj: object) -> None:
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"))
    assert files.json_digest(obj) == hashlib.sha256(text.encode()).hexdigest()


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": [1, None], "a": "é"})
    assert path.read_bytes() == b'{\n "a": "\\u00e9",\n "b": [\n  1,\n  null\n ]\n}\n'
    with pytest.raises(ValueError, match="NaN"):
        files.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": "é", "b": [1, None]}
    assert names(tmp_path) == ["a.json"]
    with pytest.raises(ValueError, match="NaN"):
        files.json_digest([float("inf")])


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # The SHA-256 of "abc" from FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.file_sha256(tmp_path / "a") == expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.bin").write_bytes(b"abc")
    (tmp_path / "b.bin").write_bytes(b"")
    files.write_manifest(
        tmp_path,
        kind="test",
        parameters={"alpha": 0.4, "sizes": (1, 2)},
        inputs={"data": "d1"},
        code="c1",
        outputs=[tmp_path / "sub" / "a.bin", Path("b.bin")],
        details={"note": "x"},
    )
    return tmp_path


def test_a_manifest_holds_and_is_reproducible(folder: Path) -> None:
    content = files.read_manifest(folder)
    assert list(content["outputs"]) == ["b.bin", "sub/a.bin"]
    assert content["outputs"]["sub/a.bin"] == {
        "bytes": 3,
        "sha256": files.file_sha256(folder / "sub" / "a.bin"),
    }
    assert content["schema"] == 1
    assert content["details"] == {"note": "x"}
    expected = {"alpha": 0.4, "sizes": (1, 2)}
    assert not files.manifest_problems(
        folder, kind="test", parameters=expected, inputs={"data": "d1"}, code="c1"
    )
    assert not files.manifest_problems(folder, kind="test")
    first = files.manifest_digest(folder)
    again = files.write_manifest(
        folder,
        kind="test",
        parameters={"sizes": [1, 2], "alpha": 0.4},
        inputs={"data": "d1"},
        code="c1",
        outputs=[Path("b.bin"), Path("sub/a.bin")],
        details={"note": "x"},
    )
    assert files.manifest_digest(folder) == first
    assert again == content


def test_folders_may_be_named_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("store")
    for output in (folder / "a", folder / "store" / "a"):
        files.write_text(output, str(output))
    outputs = [folder / "a", folder / "store" / "a"]
    files.write_manifest(folder, kind="t", parameters={}, inputs={}, code="", outputs=outputs)
    assert sorted(files.read_manifest(folder)["outputs"]) == ["a", "store/a"]
    assert not files.manifest_problems(folder, kind="t")
    assert not files.manifest_problems(tmp_path / "store", kind="t")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"kind": "other"}, "kind is 'test', expected 'other'"),
        ({"parameters": {"alpha": 0.5, "sizes": [1, 2]}}, "alpha is 0.4, expected 0.5"),
        ({"parameters": {"alpha": 0.4}}, "sizes is .* expected 'absent'"),
        ({"inputs": {"data": "d1", "more": "x"}}, "more is 'absent', expected 'x'"),
        ({"inputs": {"data": "d" * 80}}, "inputs: data has changed"),
        ({"inputs": {"data": "d2"}}, "inputs: data is 'd1', expected 'd2'"),
        ({"code": "c2"}, "code has changed"),
    ],
)
def test_what_does_not_fit_is_named(folder: Path, arguments: dict, problem: str) -> None:
    (found,) = files.manifest_problems(folder, **{"kind": "test", **arguments})

    assert re.search(problem, found)


def test_damage_is_seen(folder: Path) -> None:
    target = folder / "sub" / "a.bin"
    target.write_bytes(b"abd")
    assert files.manifest_problems(folder, kind="test") == [
        "output sub/a.bin has other bytes than the manifest says"
    ]
    target.write_bytes(b"ab")
    assert "another size" in files.manifest_problems(folder, kind="test")[0]
    target.unlink()
    assert "is missing" in files.manifest_problems(folder, kind="test")[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 2}'])
def test_unreadable_manifests(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    assert len(files.manifest_problems(folder, kind="test")) == 1
    with pytest.raises(ValueError):
        files.manifest_digest(folder)


def test_manifests_with_outputs_elsewhere(folder: Path, tmp_path: Path) -> None:
    content = files.read_manifest(folder)
    content["outputs"] = {"../outside": {"bytes": 1, "sha256": "x"}}
    files.write_json(folder / "manifest.json", content)
    assert "outside the folder" in files.manifest_problems(folder, kind="test")[0]
    for bad in (folder.parent / "x", folder / "absent"):
        with pytest.raises(ValueError):
            files.write_manifest(folder, kind="t", parameters={}, inputs={}, code="", outputs=[bad])


def test_no_manifest(tmp_path: Path) -> None:
    (problem,) = files.manifest_problems(tmp_path, kind="test")
    assert "not finished" in problem


def test_importing_is_fast() -> None:
    """The notebooks' runner uses it, and must say within seconds that there is nothing to do."""
    code = "import fitclip_kit.store.files, sys; print('torch' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "False"
