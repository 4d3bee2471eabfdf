"""Protobuf framing by hand, for messages that are assembled from parts which are encoded already.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

LENGTH_DELIMITED = 2


def framed(number: int, content: bytes) -> bytes:
    """A length-delimited field with a number below 16: its tag, its length, its content."""
    return bytes([number << 3 | LENGTH_DELIMITED]) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """The shortest encoding of a number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
