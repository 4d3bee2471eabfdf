"""Passwords in URLs have no place in a log or an answer; the rest of the URL helps whoever reads it."""

from __future__ import annotations

import re

PASSWORD = re.compile(r"(?P<user>[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\"'\\]*):[^\s/@\"'\\]+@")


def redacted(text: str) -> str:
    """The text with `***` in place of each URL's password."""
    return PASSWORD.sub(r"\g<user>:***@", text) if "://" in text and "@" in text else text
