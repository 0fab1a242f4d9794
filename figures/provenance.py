"""Where a figure's or a table's numbers come from, as the small line that it carries."""

from __future__ import annotations

from collections.abc import Mapping

from fitclip_kit.store.code import code_commit


def with_commit(provenance: Mapping[str, str]) -> dict[str, str]:
    """The provenance, say {"results": digest}, with the commit of this code where it has none.

    Raises: ValueError when the provenance is empty.
    """
    if not provenance:
        raise ValueError(
            "a figure or table is written with its provenance, say the results' digest; got none"
        )
    return {"commit": code_commit()} | dict(provenance)


def line(provenance: Mapping[str, str]) -> str:
    """The provenance as a line of text: 12 letters of each value, and whether code was changed."""
    return " · ".join(
        f"{name} {value[:12]}{'-dirty' * value.endswith('-dirty')}"
        for name, value in provenance.items()
    )
