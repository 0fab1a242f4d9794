"""What lies in a file's place where a download, a checkout or an upload went wrong."""

from __future__ import annotations

import codecs
from typing import Final

START: Final = 256
"""Bytes of a file that `stand_in` needs, from its beginning."""
PAGE: Final = "a web page or a server's error message, not the file; download the file itself"
_STAND_INS: Final = (  # in lower case, after a byte-order mark and blanks
    (b"version https://git-lfs", "a git-LFS pointer, not the file; fetch it with `git lfs pull`"),
    ((b"\xff\xfe", b"\xfe\xff"), "in UTF-16; save it as UTF-8, or take the original file"),
    (b"/annex/objects/", "a git-annex pointer, not the file; fetch it with `git annex get`"),
    ((b"<!doctype", b"<!--", b"<html", b"<head", b"<body", b"<?xml"), PAGE),
    (b"pk\x03\x04", "an archive or a spreadsheet; unpack it first, or save it as CSV in UTF-8"),
    ((b"\x1f\x8b", b"rar!", b"7z\xbc\xaf"), "an archive; unpack it first"),
    (b"%pdf-", "a PDF document"),
)


def stand_in(start: bytes) -> str | None:
    """What a file is that begins so, where it is none of the kit's kinds, and what to do about it.

    start: its first `START` bytes, or all of it.
    """
    start = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if not start:
        return "empty; download it again"
    return next((what for signs, what in _STAND_INS if start.startswith(signs)), None)
