"""What a worker process does: it makes the call that the notebook has packed, and sends
what came of it to the process of the run.
"""

import io
import linecache
import multiprocessing
import os
import pathlib
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from multiprocessing.connection import Connection

from course_launcher.packing import pack, send
from course_utils.errors import message
from course_utils.language import translated as _

LOOK = 0.2
"""Seconds between two looks whether the process of the run is still there."""
FIRST_LINES, LAST_LINES = 5, 2
"""Lines of a long error that are told."""


def work(
    call: bytes | pathlib.Path,
    output: Connection,
    result: Connection,
    port: socket.socket,
    inherited: int | None,
) -> None:
    """Make the call, send the result, and wait to be killed: others may need it.

    After an exception leave at once, so that the others notice.

    Args:
        call: the packed sources of cells, the function, and its arguments; or a file
            with them.
        output: what is printed goes here.
        result: takes pickled messages (see `packing.send`): ("begun", None); then
            ("returned", None) and the packed value, or ("raised", (type, first line,
            lines of the traceback)).
        port: a socket that keeps the worker's port, on Linux until the end.
        inherited: the run's end of the connection to the notebook, which forks have.
    """
    if inherited is not None:
        os.close(inherited)
    os.setsid()  # a group of its own, which can be killed as a whole
    for stream in 1, 2:
        os.dup2(output.fileno(), stream)
    # Into a pipe, lines would wait for 8 KiB, and die with a worker that is killed.
    for file in sys.stdout, sys.stderr:
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(line_buffering=True)
    run = multiprocessing.parent_process()  # not getppid(): it may be dead by now
    assert run is not None
    threading.Thread(target=_end_with, args=[run.pid], daemon=True).start()
    _use_own_environment()
    if sys.platform != "linux":
        port.close()

    def tell(kind, details=None):
        sys.stdout.flush()
        send(result.fileno(), pickle.dumps((kind, details)))

    try:
        packed = call if isinstance(call, bytes) else call.read_bytes()
        cells, function, arguments = pickle.loads(packed)
        linecache.cache.update(cells)
        tell("begun")
        value = _packed(function(*arguments))
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code)
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else bool(end.code))
    except BaseException as problem:
        tell("raised", _described(problem))
        os._exit(1)
    tell("returned")
    send(result.fileno(), value)
    threading.Event().wait()


def _use_own_environment():
    """Let Python and NumPy notice what differs from the process that was forked."""
    own_folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [folder for folder in own_folders if folder]
    tempfile.tempdir = None
    if "numpy" in sys.modules:  # Python's own random state is drawn anew by itself
        sys.modules["numpy"].random.seed()


def _packed(result):
    try:
        return pack(result)
    except Exception as problem:
        raise TypeError(
            _(
                "the result, a {kind}, cannot be sent back ({reason}): return "
                "numbers, arrays, lists or dicts",
                kind=type(result).__name__,
                reason=message(problem)[0],
            )
        ) from problem


def _described(problem):
    """Return an exception's type, its first line, and what a traceback shows of it.

    The traceback has the lines of the reader's own code that led to it.
    """
    lines = message(problem)
    frames = traceback.extract_tb(problem.__traceback__)[1:]  # without this file
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    shown = lines
    if len(lines) > FIRST_LINES + 1 + LAST_LINES:
        shown = [*lines[:FIRST_LINES], "…", *lines[-LAST_LINES:]]
    kind = type(problem).__name__
    where = "".join(traceback.format_list(own or frames))
    text = where + f"{kind}: " + "\n".join(shown)
    return kind, lines[0], text.splitlines()


def _end_with(run):
    """End, with all that this one has started, when the run's process is no more."""
    while os.getppid() == run:
        time.sleep(LOOK)
    os.killpg(0, signal.SIGKILL)
