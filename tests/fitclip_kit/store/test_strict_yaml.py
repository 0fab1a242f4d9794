"""The reader of YAML files beside PyYAML's own."""

from pathlib import Path

import pytest
import yaml

from fitclip_kit.store.strict_yaml import read_yaml


@pytest.mark.parametrize(
    "text",
    ["", "~", "3", "a: 1\nb: [1.5, x, {c: no}]", "a: &x {b: 1}\nc: {<<: *x, d: 2}", "é: '–'"],
)
def test_as_the_library_reads_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text, encoding="utf-8")
    assert read_yaml(file) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a: 1\nb: 2\na: 1", "key 'a' is given twice"),
        (b"x: {b: 1, b: 2}", "key 'b' is given twice"),
        (b"a: [", "line 1, column 5"),
        (b"a: \xff", "can't decode byte 0xff"),
        (b"!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"!!float much", "much"),
        (b"2024-99-99", "month"),
        (b"{[1]: 2}", "unhashable"),
        (b"[" * 3000, "is not readable YAML"),
    ],
)
def test_what_is_refused_names_the_file(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.yaml is not readable YAML: ") as refused:
        read_yaml(file)
    assert why in str(refused.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ValueError, match="is not readable YAML"):
            read_yaml(path)
