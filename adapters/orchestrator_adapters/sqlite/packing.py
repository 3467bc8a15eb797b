"""Bodies of instances, packed.

An instance is written with every transition, and most of its JSON is the names of its fields: packed it takes a quarter
of the room. That costs about a tenth of what a transition costs. Long bodies, mostly the saga's own data, stay
as they are.
"""

from __future__ import annotations

import zlib

LONGEST_BYTES = 8 * 1024
PACKED = b"\0"  # before a packed body; JSON begins otherwise
WINDOW_BITS, MEMORY = -12, 5  # 4 KiB are looked back at, which is enough and quick to set up
LEVEL = 3

# What bodies are likely to say, the likeliest last. It is part of the format, and never changes.
DICTIONARY = (
    b'"standing","skipped","parked":"","paused":true,"held":[],"queue":[],"kept":[{"bug":{"message":{"id":"","kind":"",'
    b'"deadline_at":17"answer_to":{"saga":"","key":""},"answer_attempt":1,"unwind_attempt":1,"then":{"step":"","after":['
    b'"index":0,"child":"","query","child","event","open","left","waiting":true,"wake_at":17"timeout_at":17"retry_at":17'
    b'"asked","refused","failed","clean","wanted","nothing","error":"","base":1,"closed":true,"data":{"id":"","name":"","at"'
    b'{"saga":"","key":"","run":"","version":1,"status":"compensating","compensated","completed","running","state":{"_id":"'
    b'"},"visits":[{"serial":1,"step":"","number":1,"entered_at":17,"after":[1],"state":"undone","calls":[{"kind":"command",'
    b'"command":{"type":"","data":{"_id":""}},"undo":{"type":"","data":{"_id":""}},"undo_kind":"command","do":"yes",'
    b'"unwinding":"done","attempt":1,"first_at":17}]},{"serial":2,"step":"","number":1,"entered_at":17,"after":[1],'
    b'"state":"done","calls":[{"kind":"command","command":{"type":"","data":{"}},"do":"yes","attempt":1,"first_at":17}]}],'
    b'"serial":2,"numbers":{"":1,"":1},"passed":[""],"why":"","starter":"","correlation_id":"","started_at":17,'
    b'"updated_at":17,"ended_at":17}'
)
_packer = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW_BITS, MEMORY, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)


def packed(body: bytes) -> bytes:
    """A body as it is stored."""
    if len(body) > LONGEST_BYTES:
        return body
    packer = _packer.copy()
    return PACKED + packer.compress(body) + packer.flush()


def unpacked(stored: bytes | bytearray) -> bytes | bytearray:
    """A body as it was. Errors: zlib.error, for bytes that were never packed."""
    if not stored.startswith(PACKED):
        return stored
    unpacker = zlib.decompressobj(WINDOW_BITS, DICTIONARY)
    return unpacker.decompress(stored[1:], LONGEST_BYTES) + unpacker.flush()
