"""Bodies are packed and come back as they were."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from orchestrator.testing.store_conformance import made
from orchestrator_adapters.sqlite.packing import LONGEST_BYTES, packed, unpacked


@given(st.binary(max_size=200).map(lambda end: b"{" + end))
def test_what_was_packed_comes_back(body: bytes) -> None:
    assert unpacked(packed(body)) == body


def test_an_instance_takes_less_than_half() -> None:
    body = msgspec.json.encode(made(state=Raw(b'{"customer":"ALFKI","total":"1086.00"}')))
    assert len(packed(body)) * 2 < len(body)


@pytest.mark.parametrize("length", [LONGEST_BYTES - 1, LONGEST_BYTES, LONGEST_BYTES + 1, 100_000])
def test_long_ones_come_back_too(length: int) -> None:
    body = b"{" + bytes(n % 251 for n in range(length - 1))
    assert unpacked(packed(body)) == body
    assert (packed(body) == body) == (length > LONGEST_BYTES)


def test_what_was_never_packed_is_an_error() -> None:
    with pytest.raises(zlib.error):
        unpacked(b"\0\xff\xff\xff")
