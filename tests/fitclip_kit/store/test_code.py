"""The digest of the code that a result depends on."""

import subprocess
import sys
from pathlib import Path

import pytest

from fitclip_kit.engine.students import TRAINED_BY
from fitclip_kit.store import code


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose module `a` imports `b` (in a function) and `c.d`, and `e` imports nothing."""
    sources = {
        "__init__": "raise RuntimeError('imported')",
        "a": "import os\nfrom sample_kit.c import d\ndef f():\n    from sample_kit import b\n",
        "b": "x = 1\n",
        "c/__init__": "",
        "c/d": 'def g():\n    """Words."""\n    return 1\n',
        "e": "y = 1\n",
    }
    for name, source in sources.items():
        path = tmp_path / "sample_kit" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (tmp_path / "sample_kit" / "__init__.py").write_text("")
    monkeypatch.setattr(code, "KIT", {"sample_kit"})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sample_kit", raising=False)
    monkeypatch.delitem(sys.modules, "sample_kit.c", raising=False)
    return tmp_path / "sample_kit"


@pytest.mark.parametrize(
    ("module", "source", "changes_a"),
    [
        ("a", "import os\n", True),
        ("b", "x = 2\n", True),
        ("c/d", "def g():\n    return 2\n", True),
        ("c/d", 'def g():\n    """Other words."""\n    # A comment.\n\n    return 1\n', False),
        ("c/d", "def g():\n    return 1\n", False),
        ("e", "y = 2\n", False),
    ],
)
def test_a_digest_follows_imports_and_no_words(package, module, source, changes_a):
    before = code.code_digest("sample_kit.a")
    whole = code.code_digest("sample_kit")
    (package / f"{module}.py").write_text(source + " " * 40 + "\n")
    code._read.cache_clear()
    assert (code.code_digest("sample_kit.a") != before) == changes_a
    assert (code.code_digest("sample_kit") != whole) == (changes_a or module == "e")


def test_the_order_of_names_does_not_matter_and_each_counts(package):
    both = code.code_digest("sample_kit.b", "sample_kit.e")
    assert both == code.code_digest("sample_kit.e", "sample_kit.b")
    assert len({both, code.code_digest("sample_kit.b"), code.code_digest("sample_kit.e")}) == 3


@pytest.mark.parametrize("names", [(), ("no_such_package_here",), ("no_such.package",), ("time",)])
def test_what_has_no_source_is_refused(names):
    with pytest.raises(ValueError, match="name"):
        code.code_digest(*names)


def test_the_training_depends_on_the_processes_it_may_use():
    reached, waiting = set(), list(TRAINED_BY)
    while waiting:
        if (module := waiting.pop()) not in reached:
            reached.add(module)
            for _, path in code._modules(module):
                waiting += code._read(path, path.stat().st_mtime_ns)[1]
    training = {"fitclip_core.losses", "fitclip_core.clips", "fitclip_kit.engine.distributed"}
    assert training <= reached


def test_a_commit_with_changes_says_so(tmp_path: Path) -> None:
    assert code.code_commit(tmp_path) == "unknown"

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e@e"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    clean = code.code_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "file").write_text("2")
    assert code.code_commit(tmp_path) == f"{clean}-dirty"
