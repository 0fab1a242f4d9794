import pytest

from figures import provenance
from fitclip_kit.store.code import code_commit


def test_the_commit_is_added_and_a_given_one_kept():
    assert provenance.with_commit({"results": "abc"}) == {"commit": code_commit(), "results": "abc"}
    assert provenance.with_commit({"commit": "mine"}) == {"commit": "mine"}
    with pytest.raises(ValueError, match="written with its provenance"):
        provenance.with_commit({})


def test_the_line_shows_twelve_letters_and_that_code_was_changed():
    values = {"results": "0123456789abcdef", "commit": "fedcba9876543210-dirty"}
    assert provenance.line(values) == "results 0123456789ab · commit fedcba987654-dirty"
