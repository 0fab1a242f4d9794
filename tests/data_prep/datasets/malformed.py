"""What a bad copy of a text annotation can be, and what its reader must say of it."""

_NEVER_TEXT = {
    "empty": (b"", "is empty; download it again"),
    "only_a_mark_and_blanks": (b"\xef\xbb\xbf \r\n\n", "is empty; download it again"),
    "git_lfs_pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133\n",
        "is a git-LFS pointer, not the file; fetch it with `git lfs pull`",
    ),
    "web_page": (b"\n<!DOCTYPE html><title>Sign in</title>", "is a web page or a server's error"),
    "server_error": (
        b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "is a web page or a server's error message",
    ),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "is an archive; unpack it first"),
    "spreadsheet": (b"PK\x03\x04\x14\x00", "is an archive or a spreadsheet; unpack it first, or"),
}


def bad_copies(content: bytes) -> dict[str, tuple[bytes, str]]:
    """Name -> (bytes, what the message must hold) of every kind of bad copy of a UTF-8 text."""
    text = content.decode()
    return {
        **_NEVER_TEXT,
        "utf_16": (text.encode("utf-16"), "is in UTF-16; save it as UTF-8"),
        "utf_16_without_mark": (text.encode("utf-16-be"), "holds NUL bytes"),
        "latin_1": (content + b"caf\xe9 \n", "(0xe9) is not UTF-8 text; save it as UTF-8"),
        "nul_bytes": (content + b"\0" * 8, "holds NUL bytes"),
    }


BAD_COPIES = tuple(bad_copies(b"x"))
