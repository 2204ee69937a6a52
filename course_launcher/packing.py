"""Values as bytes, for another process: cloudpickle's form, without copying the memory of arrays."""

import io
import pickle
import struct
import types

HEAD = struct.Struct("<QQ")


def pack(value, kind: str = "") -> list[bytes]:
    """Any value as blocks of bytes to be written one after the other; the memory of arrays is not copied.

    Each block begins at a multiple of 16, so that arrays that are made of it are aligned.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # cloudpickle forgets in which cell a function stood: here that is kept
        reduce_code = cloudpickle.Pickler.dispatch_table[types.CodeType]
        dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(
            {types.CodeType: lambda code, reduce=reduce_code: (_code, (code.co_filename, *reduce(code)))}
        )

    file, buffers = io.BytesIO(), []
    Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
    blocks = [file.getvalue(), *(buffer.raw() for buffer in buffers)]  # getbuffer() crashes collections before 3.12.3
    head = pickle.dumps((kind, [len(block) for block in blocks]))
    total = HEAD.size + sum(len(block) + -len(block) % 16 for block in (head, *blocks))
    padded = [part for block in (head, *blocks) for part in (block, bytes(-len(block) % 16))]
    return [HEAD.pack(len(head), total), *padded]


def _code(filename, build, parts):
    return build(*parts).replace(co_filename=filename)


def size(data: bytes) -> int | None:
    """How many bytes the first value takes of this beginning of packed bytes; None if it is not all there yet."""
    if len(data) < HEAD.size:
        return None
    total = HEAD.unpack_from(data)[1]
    return total if total <= len(data) else None


def unpack(data: bytearray) -> tuple:
    """(kind, a function that makes the value) of packed bytes; a bytearray lends its memory to the arrays."""
    data, place = memoryview(data), HEAD.size

    def block(size):
        nonlocal place
        start, place = place, place + size + -size % 16
        return data[start : start + size]

    kind, sizes = pickle.loads(block(HEAD.unpack_from(data)[0]))
    blocks = [block(size) for size in sizes]
    return kind, lambda: pickle.loads(blocks[0], buffers=blocks[1:])


def write(file, blocks: list) -> None:
    """All of these blocks into an unbuffered file or pipe, which may take less than it is given at a time."""
    for block in blocks:
        block = memoryview(block)
        while block:
            block = block[file.write(block) :]
