"""One run, in a process of its own: it starts the workers, listens to them, ends them.

All that the workers start descends from this process, and from no other run's: so it
can end everything. When the notebook's end of the connection goes, the run ends; when
this process goes, the workers end.
"""

import collections
import contextlib
import ctypes
import dataclasses
import multiprocessing
import os
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any

from course_launcher import child
from course_launcher.outcomes import Outcome
from course_launcher.tf_config import build_tf_config

PR_SET_CHILD_SUBREAPER = 36
LOG_LINE = re.compile(
    r"WARNING: All log messages before absl::"
    r"|([IWE])\d{4} [\d:.]+ +\d+ [\w./]+:\d+\] "
    r"|\S+\.py:\d+:\d+ \([\w.<>]+\)$"
)
"""What TensorFlow logs, whatever TF_CPP_MIN_LOG_LEVEL says: I, W and E for information,
warnings and errors; and JAX 0.12, before it raises: where in Python that is."""
MOST_SHOWN = 2**16
"""Characters of a worker's output that are passed on. The last lines go into an error
in any case.
"""
MOST_LOGGED = 25
"""Lines of a worker's output that an error shows."""
LONGEST_LINE = 4096
"""Bytes without an end of line that are passed on as if there was one."""
AT_ONCE = 0.1
"""Seconds within which two failures may be one: a worker dies, and another one, which
notices that first, raises because of it."""
SIGN_OF_LIFE = 1
"""Seconds after which the notebook hears from this process again."""
KILLED = 10
"""Seconds in which killed processes must be gone. One that hangs in the kernel is not
waited for any longer."""


@dataclasses.dataclass
class Job:
    """What the notebook asks for.

    Attributes:
        call: see `child.work`.
        names: one for each worker.
        envs: for each worker all its environment variables, but for those of its place.
        is_cluster: whether they get TF_CONFIG, and their index stands before what they
            print.
        awaited: how many of them, the first ones, must return.
        restarts: how often all are started again after one has died.
        timeout: seconds for everything, from when all workers have begun.
        starting: seconds within which they must have begun.
        grace: seconds that the others get to end by themselves once one has failed.
        search_path, folder, temporary: where the notebook looks for modules, where it
            is, and where its temporary files are.
    """

    call: bytes
    names: list[str]
    envs: list[dict[str, str]]
    is_cluster: bool
    awaited: int
    restarts: int
    timeout: float
    starting: float
    grace: float
    search_path: list[str]
    folder: str
    temporary: str


class NotebookHasEnded(Exception):
    """It closed the connection, or wants no more."""


class CannotStart(Exception):
    """The system refuses a new process."""


class CannotWrite(Exception):
    """Temporary folders cannot be made."""


class Deadline:
    """When a run must have ended: some seconds after its workers have begun.

    They must begin in time as well.
    """

    def __init__(self, timeout: float, starting: float):
        self.timeout = timeout
        self.kind = "not begun"
        self.allowed = starting
        self.time = time.monotonic() + starting

    def begin(self) -> None:
        """Let the seconds count from now on, unless they do already."""
        if self.kind == "not begun":
            self.kind = "deadline"
            self.allowed = self.timeout
            self.time = time.monotonic() + self.timeout


def conduct(connection: int, method: str = "spawn") -> None:
    """Be the process of a run: do a `Job` for the notebook, then end.

    The notebook hears notes (kind, content): ("ready", this process's number); ("line",
        a text to print), ("folder", where the temporary files are) and ("alive", None);
        at the end ("ended", (index of the worker that failed first, or None, all
        outcomes)), and then each worker's packed value as bytes. Instead of that
        ("cannot start", why), ("cannot write", why), or ("traceback", text) for an
        error of this process itself.

    Args:
        connection: a file descriptor.
        method: how multiprocessing starts the workers, "fork" or "spawn".
    """
    if sys.platform == "linux":  # who loses its parent becomes this process's child
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    notebook = Connection(connection)
    try:
        notebook.send(("ready", os.getpid()))
        _do(notebook.recv(), notebook, method)
    except (NotebookHasEnded, EOFError, ConnectionError):
        pass
    except CannotStart as problem:
        notebook.send(("cannot start", str(problem)))
    except CannotWrite as problem:
        notebook.send(("cannot write", str(problem)))
    except BaseException:
        with contextlib.suppress(OSError):
            notebook.send(("traceback", traceback.format_exc()))
    finally:
        os._exit(0)


def _do(job, notebook, method):
    """Start the workers, again where one has died, and tell how they ended."""
    sys.path[:] = job.search_path
    os.chdir(job.folder)
    deadline = Deadline(job.timeout, job.starting)
    for attempt in range(job.restarts + 1):
        workers = _attempt(job, notebook, method, attempt, deadline)
        failed = first_failure(workers[: job.awaited])
        if failed is None or attempt == job.restarts:
            break
        outcome = workers[failed].outcome
        if outcome.kind not in ("signal", "exit code"):
            break
        again = f"all are started again ({attempt + 1} of {job.restarts})"
        notebook.send(("line", f"{outcome}: {again}"))
    notebook.send(("ended", (failed, [worker.outcome for worker in workers])))
    for worker in workers:
        notebook.send_bytes(worker.value)


def _attempt(job, notebook, method, attempt, deadline):
    """Return the workers, after their end; nothing that they have started is left."""
    workers = []
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="course-workers-",
                    dir=job.temporary,
                    ignore_cleanup_errors=True,
                )
            )
            notebook.send(("folder", folder))
            own_folders = [tempfile.mkdtemp(dir=folder) for _ in job.names]
        except OSError as problem:
            raise CannotWrite(problem.strerror) from problem
        ports = stack.enter_context(reserved_ports(len(job.names)))
        addresses = [f"localhost:{port.getsockname()[1]}" for port in ports]
        stack.callback(kill_descendants, workers)
        for index, name in enumerate(job.names):
            env = {"TMPDIR": own_folders[index]} | job.envs[index]
            prefix = ""
            if job.is_cluster:
                env["TF_CONFIG"] = build_tf_config(addresses, index)
                env["COURSE_ATTEMPT"] = str(attempt)
                prefix = f"[{index}] "
            worker = Worker(name, prefix, env, notebook)
            workers.append(worker)
            try:
                worker.start(method, job.call, ports[index])
            except OSError as problem:
                raise CannotStart(problem.strerror) from problem
        Listener(job, notebook, workers, deadline, attempt < job.restarts).listen()
    for worker in workers:
        worker.finish()
    return workers


@contextlib.contextmanager
def reserved_ports(count: int):
    """Yield bound sockets, so that nobody else gets their ports.

    Each worker keeps its own as long as it lives. They do not listen, and so, on Linux,
    leave their port to a server that sets SO_REUSEADDR as they do; gRPC's does. On
    macOS
    they would be in its way: there a worker closes its own just before the function
    runs, and for the seconds until TensorFlow listens somebody else could get the port.
    """
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(socket.socket()) for _ in range(count)]
        for port in ports:
            port.bind(("", 0))
            # Not before: else two of them may get the same port.
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield ports


class Worker:
    """One worker process: what it prints, what it returns, how and when it ended.

    Attributes:
        outcome: how it ended, so far.
        ended: when that was noticed (time.monotonic), or None.
        has_begun: whether its function has been called.
        value: what it returned, packed.
        open: the pipes from which something may still come, and what reads each.
    """

    def __init__(
        self, name: str, prefix: str, env: dict[str, str], notebook: Connection
    ):
        self.prefix, self.env, self.notebook = prefix, env, notebook
        level = env.get("TF_CPP_MIN_LOG_LEVEL", "0")
        self.hidden_levels = "IWE"[: int(level) if level.isdigit() else 0]
        self.outcome = Outcome(name)
        self.ended = None
        self.has_begun = False
        self.value = b""
        self.traceback = []
        self.log = collections.deque(maxlen=MOST_LOGGED)
        self.shown = 0
        self.unfinished = b""
        self.open = {}
        self.process: Any = None

    def start(self, method: str, call: bytes, port: socket.socket) -> None:
        """Start the process; raise OSError where the system refuses it."""
        self.output, output = multiprocessing.Pipe(duplex=False)
        self.result, result = multiprocessing.Pipe(duplex=False)
        self.open = {self.output: self._read_output, self.result: self._read_result}
        os.environ.clear()  # this process needs none; the worker inherits what is set
        os.environ.update(self.env)
        context: Any = multiprocessing.get_context(method)
        arguments = (call, output, result, port)
        self.process = context.Process(target=child.work, args=arguments)
        with output, result:
            self.process.start()
        if sys.platform != "linux":
            port.close()

    def read(self, pipe: Any) -> None:
        """Take in what has come through a pipe; if it is closed, forget it."""
        try:
            self.open[pipe]()
        except (EOFError, ConnectionError):
            del self.open[pipe]

    def _read_output(self):
        block = os.read(self.output.fileno(), 2**20)
        if not block:
            raise EOFError
        *lines, self.unfinished = (self.unfinished + block).split(b"\n")
        if len(self.unfinished) > LONGEST_LINE:
            lines.append(self.unfinished)
            self.unfinished = b""
        for line in lines:
            self._show(line)

    def _show(self, line):
        text = line.decode(errors="replace").rstrip("\r").split("\r")[-1]
        self.log.append(text[:1000])
        log_line = LOG_LINE.match(text)
        is_hidden = log_line and (log_line[1] or "I") in self.hidden_levels
        if is_hidden or self.shown > MOST_SHOWN:
            return
        self.shown += len(text) + 1
        self.notebook.send(("line", self.prefix + text))
        if self.shown > MOST_SHOWN:
            more = f"… (more than {MOST_SHOWN // 1024} KiB: not shown)"
            self.notebook.send(("line", self.prefix + more))

    def _read_result(self):
        kind, details = self.result.recv()
        self.has_begun = True
        if kind == "returned":
            self.value = self.result.recv_bytes()
        if kind == "raised":
            self.outcome.type, self.outcome.message, self.traceback = details
        if kind != "begun":
            self.outcome.kind = kind

    def look(self, now: float) -> None:
        """Note whether it has ended by now, and how, if it has not said so itself."""
        code = self.process.exitcode
        if code is not None:
            self._read_all()  # it may just have said so
            if self.outcome.kind == "running":
                self.outcome.kind, self.outcome.type = _described_exit(code)
        if self.outcome.kind != "running" and self.ended is None:
            self.ended = now

    def _read_all(self):
        while ready := wait(self.open, 0):
            for pipe in ready:
                self.read(pipe)

    def finish(self) -> None:
        """After it was killed, take in what it has left, but no result any more."""
        self.open.pop(self.result, None)
        self._read_all()
        if self.unfinished:
            self._show(self.unfinished)
        self.outcome.log = [*self.log, *self.traceback][-MOST_LOGGED:]


def _described_exit(code):
    """Return the kind and the type of an `Outcome`, by a process's exit code."""
    if code >= 0:
        return "exit code", str(code)
    names = {number: number.name for number in signal.Signals}
    return "signal", names.get(-code, f"signal {-code}")


class Listener:
    """Passes on what the workers print, and decides when the run has ended.

    is_hurried: whether nobody waits for the others' errors once one was killed, since
        all are started again.
    """

    def __init__(self, job, notebook, workers, deadline, is_hurried):
        self.job, self.notebook, self.workers = job, notebook, workers
        self.deadline, self.is_hurried = deadline, is_hurried
        self.awaited = workers[: job.awaited]
        self.failed_at = None
        self.said_alive = time.monotonic()

    def listen(self) -> None:
        """Return when all that are awaited have ended, or time is over."""
        while not self._has_ended(time.monotonic()):
            self._read_what_comes()
            now = time.monotonic()
            for worker in self.workers:
                worker.look(now)
            if all(worker.has_begun or worker.ended for worker in self.workers):
                self.deadline.begin()
            if now - self.said_alive > SIGN_OF_LIFE:
                self.said_alive = now
                self.notebook.send(("alive", None))

    def _read_what_comes(self):
        owners = {pipe: worker for worker in self.workers for pipe in worker.open}
        for pipe in wait([self.notebook, *owners], 0.05):
            if pipe is self.notebook:
                raise NotebookHasEnded
            owners[pipe].read(pipe)

    def _has_ended(self, now):
        kinds = [worker.outcome.kind for worker in self.awaited]
        has_failed = any(worker.outcome.has_failed for worker in self.awaited)
        if has_failed and self.failed_at is None:
            self.failed_at = now
        if self.failed_at is None:
            if now > self.deadline.time:
                self._note_who_is_late()
                return True
            return "running" not in kinds
        if now < self.failed_at + AT_ONCE:  # another one's death may explain it
            return False
        if self.is_hurried and "signal" in kinds:
            return True
        patience = min(self.deadline.time, self.failed_at + self.job.grace)
        return "running" not in kinds or now > patience

    def _note_who_is_late(self):
        for worker in self.awaited:
            is_running = worker.outcome.kind == "running"
            if is_running and (
                self.deadline.kind == "deadline" or not worker.has_begun
            ):
                worker.outcome.kind = self.deadline.kind
                worker.outcome.type = f"{self.deadline.allowed:g}"


def first_failure(workers: list[Worker]) -> int | None:
    """Return the index of the worker that failed first; None if none has.

    Of two that failed at once, one that died: it explains the other's exception.
    """
    failed = [i for i, worker in enumerate(workers) if worker.outcome.has_failed]
    if not failed:
        return None
    ended = [worker.ended or 0 for worker in workers]
    first = min(ended[index] for index in failed)

    def order(index):
        has_raised = workers[index].outcome.kind == "raised"
        return ended[index] > first + AT_ONCE, has_raised, ended[index]

    return min(failed, key=order)


def kill_descendants(workers: list[Worker]) -> None:
    """Kill the workers and what they have started; wait until they are gone."""
    import psutil

    if sys.platform != "linux":  # where orphans do not become this process's children
        for worker in workers:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.process.pid, signal.SIGKILL)
    until = time.monotonic() + KILLED
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(descendants, timeout=0.1)
        if time.monotonic() > until:
            return
