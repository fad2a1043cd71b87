"""Bytes that were once a valid file: a seed and what was done to it, as hypothesis draws and shrinks them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

Change = Callable[[bytes], bytes]

NUMBERS = (0, 1, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""Values at which lengths, sizes and offsets overflow."""

PLACES = st.floats(0, 1, allow_nan=False)
FORMATS = ("<H", ">H", "<I", ">I", "<Q", ">Q")


def _at(content: bytes, place: float) -> int:
    return int(place * len(content))


def _replace(place: float, new: bytes) -> Change:
    return lambda content: content[: (at := _at(content, place))] + new + content[at + len(new) :]


def _insert(place: float, new: bytes) -> Change:
    return lambda content: content[: (at := _at(content, place))] + new + content[at:]


def _cut(place: float) -> Change:
    return lambda content: content[: _at(content, place)]


def _delete(place: float, count: int) -> Change:
    return lambda content: content[: (at := _at(content, place))] + content[at + count :]


def _repeat(place: float, count: int, times: int) -> Change:
    def change(content: bytes) -> bytes:
        at = _at(content, place)
        return content[:at] + content[at : at + count] * times + content[at + count :]

    return change


def _flip(place: float, bit: int) -> Change:
    def change(content: bytes) -> bytes:
        at = min(_at(content, place), len(content) - 1)
        return content if at < 0 else content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]

    return change


def _number(place: float, value: int, form: str) -> Change:
    return _replace(place, struct.pack(form, value % 256 ** struct.calcsize(form)))


def changes(words: Sequence[bytes] = ()) -> st.SearchStrategy[Change]:
    """One change; `words` are inserted as they are."""
    kinds = [
        st.builds(_flip, PLACES, st.integers(0, 7)),
        st.builds(_replace, PLACES, st.binary(min_size=1, max_size=6)),
        st.builds(_insert, PLACES, st.binary(min_size=1, max_size=12)),
        st.builds(_number, PLACES, st.sampled_from(NUMBERS), st.sampled_from(FORMATS)),
        st.builds(_delete, PLACES, st.integers(1, 64)),
        st.builds(_repeat, PLACES, st.integers(1, 32), st.integers(2, 40)),
        st.builds(_cut, PLACES),
    ]
    if words:
        kinds += [st.builds(_insert, PLACES, st.sampled_from(list(words)))] * 3
    return st.one_of(kinds)


def mutated(seeds: Sequence[bytes], words: Sequence[bytes] = (), most: int = 6) -> st.SearchStrategy[bytes]:
    """A seed after one change to `most`."""

    def apply(content: bytes, found: Sequence[Change]) -> bytes:
        for change in found:
            content = change(content)
        return content

    return st.builds(apply, st.sampled_from(list(seeds)), st.lists(changes(words), min_size=1, max_size=most))
