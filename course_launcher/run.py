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
import pathlib
import pickle
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
from course_launcher.network import SILENCE, Links, Network
from course_launcher.outcomes import Outcome
from course_launcher.packing import take_message
from course_launcher.tf_config import build_tf_config
from course_utils import language
from course_utils.language import translated as _

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
AT_ONCE = 0.5
"""Seconds within which two failures may be one: a worker dies, and another one, which
notices that first, raises because of it. On a busy machine a death is seen late."""
SIGN_OF_LIFE = 1
"""Seconds after which the notebook hears from this process again."""
READS = 64
"""Blocks that are read of a pipe before something else is looked at: a process that a
worker has started may print without end."""
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
        begin_until: when they must have begun (time.monotonic).
        starting: how many seconds that were, for a sentence.
        grace: seconds that the others get to end by themselves once one has failed.
        network: the links between the workers, or None: as fast as this machine's own.
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
    begin_until: float
    starting: float
    grace: float
    network: Network | None
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

    def __init__(self, job: "Job"):
        self.timeout = job.timeout
        self.kind = "not begun"
        self.allowed = job.starting
        self.time = job.begin_until

    def begin(self) -> None:
        """Let the seconds count from now on, unless they do already."""
        if self.kind == "not begun":
            self.kind = "deadline"
            self.allowed = self.timeout
            self.time = time.monotonic() + self.timeout


def conduct(connection: int, method: str = "spawn") -> None:
    """Be the process of a run: do a `Job` for the notebook, then end.

    The notebook hears notes, each a kind and its content:

    * "ready": this process's number;
    * "line": a text to print; "folder": where the temporary files are; "alive": None;
    * at the end "ended": the index of the worker that failed first, or None, and all
      outcomes. Then comes each worker's packed value, as bytes;
    * instead of the end "cannot start" or "cannot write": why; or "traceback": the text
      of an error of this process itself.

    Args:
        connection: a file descriptor.
        method: how multiprocessing starts the workers, "fork" or "spawn".
    """
    if sys.platform == "linux":  # who loses its parent becomes this process's child
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    notebook = Notebook(connection)
    try:
        _do_and_report(notebook, method)
    except NotebookHasEnded:
        pass
    finally:
        os._exit(0)


def _do_and_report(notebook, method):
    try:
        notebook.tell("ready", os.getpid())
        _do(notebook.receive(), notebook, method)
    except NotebookHasEnded:
        raise
    except CannotStart as problem:
        notebook.tell("cannot start", str(problem))
    except CannotWrite as problem:
        notebook.tell("cannot write", str(problem))
    except BaseException:
        notebook.tell("traceback", traceback.format_exc())


class Notebook:
    """The notebook's process, at the other end of a connection."""

    def __init__(self, connection: int):
        self.connection = Connection(connection)

    def fileno(self) -> int:
        return self.connection.fileno()

    def inherited(self, method: str) -> int | None:
        """Return the connection's file descriptor where a new process has it, too."""
        return self.fileno() if method == "fork" else None

    def tell(self, kind: str, content: Any = None) -> None:
        """Send a note; raise NotebookHasEnded where nobody takes it."""
        try:
            self.connection.send((kind, content))
        except OSError:
            raise NotebookHasEnded from None

    def give(self, value: bytes) -> None:
        """Send a packed value."""
        try:
            self.connection.send_bytes(value)
        except OSError:
            raise NotebookHasEnded from None

    def receive(self) -> Any:
        """Return what the notebook sends."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):  # OSError: it ended in the middle of a message
            raise NotebookHasEnded from None


def _do(job, notebook, method):
    """Start the workers, again where one has died, and tell how they ended."""
    sys.path[:] = job.search_path
    os.chdir(job.folder)
    if language.VARIABLE in job.envs[0]:  # this process prints a line of its own, too
        os.environ[language.VARIABLE] = job.envs[0][language.VARIABLE]
    deadline = Deadline(job)
    for attempt in range(job.restarts + 1):
        workers = _attempt(job, notebook, method, attempt, deadline)
        failed = first_failure(workers[: job.awaited])
        if failed is None or attempt == job.restarts:
            break
        outcome = workers[failed].outcome
        if outcome.kind not in ("signal", "exit code"):
            break
        line = _(
            "{outcome}: all are started again ({attempt} of {restarts})",
            outcome=outcome,
            attempt=attempt + 1,
            restarts=job.restarts,
        )
        notebook.tell("line", line)
    notebook.tell("ended", (failed, [worker.outcome for worker in workers]))
    for worker in workers:
        notebook.give(worker.value)


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
            notebook.tell("folder", folder)
            own_folders = [tempfile.mkdtemp(dir=folder) for _ in job.names]
            call = job.call
            if method == "spawn":
                # In the pipe to a fresh interpreter, one that dies before it has read
                # everything would hold up this process.
                call = pathlib.Path(folder, "call")
                call.write_bytes(job.call)
        except OSError as problem:
            raise CannotWrite(problem.strerror) from problem
        ports = stack.enter_context(reserved_ports(len(job.names)))
        addresses = [f"localhost:{port.getsockname()[1]}" for port in ports]
        links = None
        if job.network:
            links = _started_links(job.network, addresses, folder, method, notebook)
            stack.callback(links.close)
        stack.callback(_kill_and_report, workers, notebook)
        for index, name in enumerate(job.names):
            env = {"TMPDIR": own_folders[index]} | job.envs[index]
            prefix = ""
            if job.is_cluster:
                known = links.addresses_for(index) if links else addresses
                env["TF_CONFIG"] = build_tf_config(known, index)
                env["COURSE_ATTEMPT"] = str(attempt)
                prefix = f"[{index}] "
            if links:
                env[SILENCE] = links.silence
            worker = Worker(name, prefix, env, notebook)
            try:
                worker.start(method, call, ports[index])
            except OSError as problem:
                raise CannotStart(problem.strerror) from problem
            workers.append(worker)
            notebook.tell("alive")  # fresh interpreters start slowly
        Listener(job, notebook, workers, deadline, attempt < job.restarts).listen()
        if links and links.have_ended():
            raise RuntimeError(
                _("the process of the network between the workers ended")
            )
    for worker in workers:
        worker.finish()
    return workers


def _started_links(network, addresses, folder, method, notebook):
    """Return the links between the workers; they listen already."""
    try:
        links = Links(network, addresses, folder)
        links.start(method, notebook.inherited(method))
    except OSError as problem:
        raise CannotStart(problem.strerror) from problem
    return links


@contextlib.contextmanager
def reserved_ports(count: int):
    """Yield bound sockets, so that nobody else gets their ports.

    Each worker keeps its own as long as it lives. They do not listen, and so, on Linux,
    leave their port to a server that sets SO_REUSEADDR as they do; gRPC's does. On
    macOS they would be in its way: there a worker closes its own just before the
    function runs, and for the seconds until TensorFlow listens somebody else could get
    the port.
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

    def __init__(self, name: str, prefix: str, env: dict[str, str], notebook: Notebook):
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
        self.received = bytearray()
        self.has_returned = False
        self.open = {}
        self.process: Any = None

    def start(
        self, method: str, call: bytes | pathlib.Path, port: socket.socket
    ) -> None:
        """Start the process; raise OSError where the system refuses it."""
        self.output, output = multiprocessing.Pipe(duplex=False)
        self.result, result = multiprocessing.Pipe(duplex=False)
        self.open = {self.output: self._read_output, self.result: self._read_result}
        os.environ.clear()  # what is set is for the worker, which inherits it
        os.environ.update(self.env)
        context: Any = multiprocessing.get_context(method)
        inherited = self.notebook.inherited(method)
        arguments = (call, output, result, port, inherited)
        self.process = context.Process(target=child.work, args=arguments)
        with output, result:
            self.process.start()
        if sys.platform != "linux":
            port.close()

    def read(self, pipe: Any) -> None:
        """Take in what has come through a pipe; if it is closed, forget it."""
        try:
            self.open[pipe]()
        except (EOFError, OSError):
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
        self.notebook.tell("line", self.prefix + text)
        if self.shown > MOST_SHOWN:
            more = _(
                "… (more than {most} KiB: not shown)",
                most=MOST_SHOWN // 1024,
            )
            self.notebook.tell("line", self.prefix + more)

    def _read_result(self):
        """Take in a part of a message: it may be large, and its sender stop."""
        block = os.read(self.result.fileno(), 2**20)
        if not block:
            raise EOFError
        self.received += block
        while (message := take_message(self.received)) is not None:
            self._note(message)

    def _note(self, message):
        if self.has_returned:
            self.value = message
            self.outcome.kind = "returned"
            return
        kind, details = pickle.loads(message)
        self.has_begun = True
        self.has_returned = kind == "returned"
        if kind == "raised":
            self.outcome.type, self.outcome.message, self.traceback = details
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
        for _block in range(READS):
            ready = wait(self.open, 0)
            if not ready:
                return
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
                self.notebook.tell("alive")

    def _read_what_comes(self):
        owners = {pipe: worker for worker in self.workers for pipe in worker.open}
        for pipe in wait([self.notebook.connection, *owners], 0.05):
            if pipe is self.notebook.connection:
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


def _kill_and_report(workers, notebook):
    for number in kill_descendants(workers):
        notebook.tell(
            "line", _("process {number} cannot be killed, and is left", number=number)
        )


def kill_descendants(workers: list[Worker]) -> list[int]:
    """Kill the workers and what they have started; wait until they are gone.

    Returns:
        The numbers of the processes that are still there after `KILLED` seconds.
    """
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
            return [process.pid for process in descendants]
    return []
