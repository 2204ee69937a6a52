"""Values as bytes, for another process; and messages in a stream of bytes."""

import io
import os
import struct
import types
from typing import Any


def pack(value: Any) -> bytes:
    """Return cloudpickle's form of any value, for `pickle.loads`.

    cloudpickle forgets in which file a function stood. Here its name is kept: it leads
    to the source of the notebook's cell, which AutoGraph and tracebacks show.

    Raises:
        whatever the value's own type raises, if it cannot be pickled.
    """
    import cloudpickle

    table: Any = cloudpickle.Pickler.dispatch_table
    reduce_code = table[types.CodeType]

    def reduce_code_with_filename(code):
        build, parts = reduce_code(code)[:2]
        return _build_code, (code.co_filename, build, parts)

    class Pickler(cloudpickle.Pickler):
        dispatch_table = table.new_child({types.CodeType: reduce_code_with_filename})

    file = io.BytesIO()
    Pickler(file, protocol=5).dump(value)
    return file.getvalue()


LENGTH = struct.Struct("!Q")


def send(pipe: int, message: bytes) -> None:
    """Write a message, with its length before it, into a pipe that may block."""
    for part in LENGTH.pack(len(message)), message:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(pipe, rest) :]


def take_message(received: bytearray) -> bytes | None:
    """Remove the first message from what was received; None if it is not whole yet."""
    if len(received) < LENGTH.size:
        return None
    end = LENGTH.size + LENGTH.unpack_from(received)[0]
    if len(received) < end:
        return None
    message = bytes(memoryview(received)[LENGTH.size : end])
    del received[:end]
    return message


def _build_code(filename, build, parts):
    return build(*parts).replace(co_filename=filename)
