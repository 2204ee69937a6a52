"""What a worker process does: make a call that another process has packed, and send the result."""

import linecache
import os
import signal
import sys
import threading
import traceback

from course_launcher.packing import pack, unpack, write
from course_utils.errors import message


def work(result: int, lifeline: int, call: int, *ports: int) -> None:
    """What a worker does: make the call that lies in a file, send the result, and wait to be stopped.

    After an exception it leaves, so that the others notice.

    result: a pipe for the result. lifeline: a pipe that nobody writes into; when nobody can any more, the notebook has
    ended. ports: sockets that keep the worker's port.
    """
    for fd in (result, lifeline, call, *ports):
        os.set_inheritable(fd, False)
    for stream in sys.stdout, sys.stderr:  # into a pipe they would wait for 8 KiB, and die with a worker that is killed
        stream.reconfigure(line_buffering=True)
    threading.Thread(target=_end_with_the_notebook, args=[lifeline], daemon=True).start()
    try:
        data, done = bytearray(os.fstat(call).st_size), 0
        while done < len(data):  # not read(): the workers share the file's position
            done += os.preadv(call, [memoryview(data)[done:]], done)
        cells, function, args = unpack(data)[1]()
        linecache.cache.update(cells)
        if sys.platform != "linux":
            for port in ports:
                os.close(port)
        with open(result, "wb", buffering=0, closefd=False) as file:
            write(file, pack(None, "begun"))
        blocks = _packed(function(*args))
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code)
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else bool(end.code))
    except BaseException as problem:
        blocks = pack(_described(problem), "raised")
    else:
        _send(result, blocks)
        threading.Event().wait()
    _send(result, blocks)
    os._exit(1)


def _send(pipe, blocks):
    sys.stdout.flush()
    with open(pipe, "wb", buffering=0) as file:
        write(file, blocks)


def _packed(result):
    try:
        return pack(result, "returned")
    except Exception as problem:
        raise TypeError(
            f"the result, a {type(result).__name__}, cannot be sent back ({message(problem)[0]}): "
            "return numbers, arrays, lists or dicts"
        ) from problem


def _described(problem):
    """What to tell of an exception: its type, its first line, and the lines of the reader's code that led to it."""
    lines = message(problem)
    frames = traceback.extract_tb(problem.__traceback__)[1:]  # without the launcher's
    frames = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    some = lines if len(lines) <= 8 else [*lines[:5], "…", *lines[-2:]]
    kind = type(problem).__name__
    return kind, lines[0], "".join(traceback.format_list(frames)) + f"{kind}: " + "\n".join(some)


def _end_with_the_notebook(lifeline):
    """Wait until nobody holds the other end of this pipe any more; then end, with all that this worker has started."""
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)
