"""The launcher: functions of the notebook in processes of their own; their output, results, how each one ended."""

import collections
import contextlib
import json
import linecache
import os
import re
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time

from course_launcher import fork_server, packing
from course_launcher.outcomes import Outcome, WorkerError
from course_launcher.tf_config import build_tf_config
from course_utils.arguments import finite_number, whole_number
from course_utils.errors import message

MOST_WORKERS = 64
GRACE = 12
"""Seconds that the others get to end by themselves once one has failed, so that their errors can be read: TensorFlow
notices at once that a connection breaks, and after ten seconds that a worker's heartbeat has stopped."""
STARTING = 300
"""Seconds within which all workers must have begun. Only then their `timeout` counts: loading takes long on a busy
machine, and is no fault of theirs."""
CLOSING = 20
"""Seconds in which all workers of a run must be gone when it ends."""
LOG_LINE = re.compile(
    r"WARNING: All log messages before absl::"
    r"|([IWE])\d{4} [\d:.]+ +\d+ [\w./]+:\d+\] "
    r"|\S+\.py:\d+:\d+ \([\w.<>]+\)$"
)
"""What TensorFlow logs, whatever TF_CPP_MIN_LOG_LEVEL says: I, W and E for information, warnings and errors; and JAX
0.12, before it raises: where in Python that is."""
SHOWN = 2**16
"""Characters of a worker's output that are passed on; the last lines go into an error in any case."""


def run_on_workers(function, *args, workers: int = 2, timeout: float = 120, restarts: int = 0, env=None,
                   coordinated: bool = False) -> list:  # fmt: skip
    """Run `function(*args)` in processes of their own that form a cluster; return what each returned, in their order.

    function: any function, such as one written in a notebook's cell. It travels with what it refers to and with its
        source; what cannot travel (a strategy, a lock) must be made inside it. Its results travel back.
    workers: how many processes, from 1 to 64. Each finds its place in TF_CONFIG, with a port of this machine that is
        its own while it lives (a server that is not gRPC's must set SO_REUSEADDR to listen there).
    timeout: seconds from when all of them have begun, restarts included. What is loaded before may take 300 more.
    restarts: how often all of them are started again after one *died* (was killed, or left without returning). Not
        after an exception, which would come again, nor after the deadline.
    env: environment variables for the workers, added to this process's: a dict, or a function from a worker's index to
        one. In each, COURSE_ATTEMPT counts the restarts.
    coordinated: worker 0 coordinates the others. The run ends when it has returned, and how the others fare until then
        is its business: they may wait for ever, fail or die, and then None stands for what they returned.

    On Linux the workers are forked from a process that has loaded Keras and its backend; it starts with the first run
    and ends with this process. There is one for each backend, and one more where `env` holds what is read when these
    are imported (TF_…, XLA_…, JAX_…, OMP_…). Their random numbers differ. Where `env` holds PYTHON… or LD_…, or each
    worker imports with other variables, on macOS, and beside a TPU, they are fresh interpreters, which takes seconds.

    What a worker prints appears here at once, its index in front. A worker that has returned stays until all have,
    because the others may still need its server. Workers see no GPU unless `env` sets CUDA_VISIBLE_DEVICES: one GPU
    cannot serve two of them. TMPDIR is a folder of each one's own, gone after the run, unless `env` names another. At
    the end, after an error, when the cell is interrupted and when this process is killed, all workers and what they
    started are killed (on macOS not what has begun a session of its own).

    Raises WorkerError when a worker raises, dies, or misses the deadline (the others get 12 seconds to say what they
    noticed); ValueError for arguments that make no sense or cannot travel; RuntimeError on other systems than Linux
    and macOS, or when temporary files cannot be written.
    """
    count = whole_number("workers", workers, 1, MOST_WORKERS)
    restarts = whole_number("restarts", restarts)
    deadline = Deadline(finite_number("timeout", timeout))
    call = _packed(function, args)
    chosen = [{"CUDA_VISIBLE_DEVICES": "-1"} | _texts(env(index) if callable(env) else env) for index in range(count)]
    names = [f"worker {index}" for index in range(count)]
    for attempt in range(restarts + 1):
        try:
            with _reserved_ports(count) as ports:
                addresses = [f"localhost:{port.getsockname()[1]}" for port in ports]
                envs = [
                    own | {"TF_CONFIG": build_tf_config(addresses, index), "COURSE_ATTEMPT": str(attempt)}
                    for index, own in enumerate(chosen)
                ]
                again, awaited = attempt < restarts, 1 if coordinated else count
                return _run(call, names, envs, deadline, ports, again, awaited)
        except WorkerError as failure:
            if failure.outcomes[failure.index].kind in ("raised", "deadline", "not begun") or attempt == restarts:
                raise
            print(f"{str(failure).splitlines()[0]}: all are started again ({attempt + 1} of {restarts})", flush=True)


def run_in_process(function, *args, env: dict | None = None, timeout: float = 120):
    """Run `function(*args)` in one process of its own, without TF_CONFIG, and return what it returns.

    For what must not happen in this process, or cannot any more: a crash, another Keras backend, other devices.
    Everything else is as in `run_on_workers`, but that it sees the GPUs that this process sees.
    """
    deadline = Deadline(finite_number("timeout", timeout))
    return _run(_packed(function, args), ["the process"], [_texts(env)], deadline)[0]


def prepare(*envs: dict) -> None:
    """On Linux, load now what workers with each `env` need, while this process goes on; else their first run waits."""
    for env in envs if sys.platform == "linux" else ():
        fork_server.ForkServer.connect([_texts(env)] * 2).close()  # as for several workers


def _texts(env):
    return {name: str(value) for name, value in (env or {}).items()}


def _packed(function, args):
    """The call as blocks of bytes, with the source of what was defined in cells, which no file holds."""
    if not sys.platform.startswith(("linux", "darwin")):
        raise RuntimeError(
            f"worker processes can be started on Linux and macOS, and this is {sys.platform}: on Windows use WSL2"
        )
    if not callable(function):
        raise ValueError(f"function={function!r}: must be a function")
    cells = {
        name: (entry[0], None, *entry[2:])  # no time of change: else linecache would look for a file, and forget it
        for name, entry in list(linecache.cache.items())
        if len(entry) == 4 and not os.path.exists(name)
    }
    try:
        return packing.pack((cells, function, args))
    except Exception as problem:  # every type has its own way to refuse
        raise ValueError(
            f"function: {getattr(function, '__name__', function)} or its arguments cannot be sent to another process "
            f"({type(problem).__name__}: {message(problem)[0]}): make such things inside the function"
        ) from problem


@contextlib.contextmanager
def _reserved_ports(count):
    """Bound sockets, so that nobody else gets their ports; each worker keeps its own as long as it lives.

    They do not listen, and so, on Linux, leave their port to a server that sets SO_REUSEADDR as they do; gRPC's does.
    On macOS they would be in its way: there a worker closes its own just before the function runs, and for the seconds
    until TensorFlow listens somebody else could get the port.
    """
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(socket.socket()) for _ in range(count)]
        for port in ports:
            port.bind(("", 0))
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not before: else two may get the same one
        yield ports


def free_addresses(count: int) -> list[str]:
    """As many addresses of this machine, `"localhost:port"`, whose ports are free now (and might be taken later)."""
    with _reserved_ports(whole_number("count", count, 1)) as ports:
        return [f"localhost:{port.getsockname()[1]}" for port in ports]


class Deadline:
    """When a run must have ended: some seconds after its workers have begun, which they must do in time as well."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.kind, self.allowed = "not begun", STARTING
        self.time = time.monotonic() + STARTING

    def begin(self) -> None:
        """Let the seconds count from now on, unless they do already."""
        if self.kind == "not begun":
            self.kind, self.allowed = "deadline", self.seconds
            self.time = time.monotonic() + self.seconds


class _Worker:
    """One process: what it prints, what it returns, how it ended."""

    def __init__(self, name, prefix, level):
        self.outcome, self.prefix, self.value = Outcome(name), prefix, lambda: None
        self.has_begun = False
        self.output, output = os.pipe()
        self.result, result = os.pipe()
        lifeline, self.lifeline = os.pipe()
        self.theirs = [output, result, lifeline]
        self.quiet = "IWE"[: int(level) if level.isdigit() else 0]
        self.log, self.shown, self.partial, self.data = collections.deque(maxlen=25), 0, b"", bytearray()
        self.readers = {self.output: self._print, self.result: self._collect}
        for end in self.readers:
            os.set_blocking(end, False)

    @contextlib.contextmanager
    def handed_over(self):
        """The ends of the pipes that are the process's own; they are closed here afterwards."""
        try:
            yield list(self.theirs)
        finally:
            for end in self.theirs:
                os.close(end)

    def read(self, end):
        """Take in what has come through this pipe, a block at most; False if there was nothing."""
        try:
            block = os.read(end, 2**20)
        except BlockingIOError:
            return False
        if block and end in self.readers:
            self.readers[end](block)
        else:
            self.readers.pop(end, None)
        return bool(block)

    def _print(self, block):
        *lines, self.partial = (self.partial + block).split(b"\n")
        if len(self.partial) > 4096:
            lines, self.partial = [*lines, self.partial], b""
        for line in lines:
            self._print_line(line)

    def _print_line(self, line):
        line = line.decode(errors="replace").rstrip("\r").split("\r")[-1]
        self.log.append(line[:1000])
        noise = LOG_LINE.match(line)
        if self.shown <= SHOWN and not (noise and (noise[1] or "I") in self.quiet):
            self.shown += len(line) + 1
            more = "" if self.shown <= SHOWN else f"\n{self.prefix}… (more than {SHOWN // 1024} KiB: not shown)"
            print(f"{self.prefix}{line}{more}", flush=True)

    def _collect(self, block):
        self.data += block
        while size := packing.size(self.data):
            kind, value = packing.unpack(self.data)
            self.data = self.data[size:]  # another object: `value` is made of the memory of the one before
            self.has_begun = True
            if kind == "begun":
                continue
            self.outcome.kind = kind
            if kind == "returned":
                self.value = value
            else:
                self.outcome.type, self.outcome.message, details = value()
                while self.read(self.output):  # what it printed stands before its traceback
                    pass
                self.log.extend(details.splitlines())

    def ended(self, code):
        """The process is no more: take in what it has left, and note how it ended if it has not said so itself."""
        for end in list(self.readers):
            while self.read(end):
                pass
        if self.outcome.kind == "running":
            names = {number: number.name for number in signal.Signals}
            self.outcome.kind = "signal" if code < 0 else "exit code"
            self.outcome.type = names.get(-code, f"signal {-code}") if code < 0 else str(code)

    def close(self):
        for end in (self.output, self.result, self.lifeline):
            os.close(end)
        if self.partial:
            self._print_line(self.partial)
        self.outcome.log = list(self.log)


class _NoServer(Exception):
    """The fork server has ended before it started a worker: as where TensorFlow aborts when it is imported."""


def _run(call, names, envs, deadline, ports=(), again=False, awaited=1):
    """Start a process for each name, listen until all have returned or one has failed, and leave none behind.

    again: whether all are started again after a death; then, if it was killed, nobody waits for the others' errors.
    awaited: how many of them, the first ones, must return.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            packing.write(file, call)
        except OSError as problem:
            raise _cannot_write(problem.strerror) from problem
        try:
            workers, failed = _launch(file, names, envs, deadline, ports, again, awaited)
        except _NoServer:
            try:
                workers, failed = _launch(file, names, envs, deadline, ports, again, awaited, fresh=True)
            except _NoServer:
                raise RuntimeError(
                    "the process that starts the workers ended before it started one: see what "
                    "python -c 'import course_launcher' says here"
                ) from None
    if failed is not None:
        raise WorkerError(failed, [worker.outcome for worker in workers])
    return [worker.value() for worker in workers]


def _cannot_start(why):
    return RuntimeError(
        f"a worker process cannot be started ({why}): this machine has too many processes or too little memory; end "
        "some, or ask for fewer workers"
    )


def _cannot_write(why):
    return RuntimeError(
        f"temporary files for the workers cannot be written ({why}): free some space, or set TMPDIR to a folder that "
        "has some"
    )


def _launch(file, names, envs, deadline, ports, again, awaited, fresh=False):
    here = {"path": fork_server.search_path(), "folder": os.getcwd(), "temporary": tempfile.gettempdir()}
    workers, folders = [], set()
    with fork_server.ForkServer.connect(envs, fresh) as server:
        server.settimeout(STARTING)  # many requests fill the socket, and it reads none while it loads
        try:
            for index, (name, env) in enumerate(zip(names, envs, strict=True)):
                env = {name: value for name, value in os.environ.items() if name not in fork_server.PER_RUN} | env
                workers.append(_Worker(name, f"[{index}] " if ports else "", env.get("TF_CPP_MIN_LOG_LEVEL", "0")))
                request = json.dumps({"index": index, "env": env} | here).encode()
                with contextlib.suppress(ConnectionError), workers[-1].handed_over() as fds:
                    fds += [file.fileno(), *(port.fileno() for port in ports[index : index + 1])]
                    socket.send_fds(server, [len(request).to_bytes(4, "big")], fds)
                    server.sendall(request)
            for port in ports if sys.platform != "linux" else ():
                port.close()
            return workers, _listen(server, workers, folders, deadline, again, awaited)
        except TimeoutError:
            raise RuntimeError(
                f"the process that starts the workers has not taken their calls within {STARTING} seconds: close "
                "other programs, and try again"
            ) from None
        finally:
            server.shutdown(socket.SHUT_WR)
            server.settimeout(CLOSING)
            try:
                while _received(server):
                    pass
            except TimeoutError:
                print(f"some workers have not ended within {CLOSING} seconds after they were killed", flush=True)
            for worker in workers:
                worker.close()
            for folder in folders:  # the fork server has removed it, unless it was killed
                shutil.rmtree(folder, ignore_errors=True)


def _received(server):
    """What the fork server has sent; nothing if it has ended the connection, or itself."""
    try:
        return server.recv(2**16)
    except ConnectionError:
        return b""


def _listen(server, workers, folders, deadline, again, awaited):
    """Pass on what the workers print until the end: None if all returned, or the index of the first that failed.

    folders: an empty set, in which is put where the workers' temporary folders are.
    """
    first, decided, patience, partial = None, None, None, b""
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        for worker in workers:
            for end in worker.readers:
                selector.register(end, selectors.EVENT_READ, worker)
        while True:
            for key, _ in selector.select(0.05):
                if worker := key.data:
                    worker.read(key.fd)
                    if key.fd not in worker.readers:
                        selector.unregister(key.fd)
                    continue
                block = _received(server)
                *lines, partial = (partial + block).split(b"\n")
                if not block:
                    raise RuntimeError("the process that starts the workers was killed") if folders else _NoServer
                for note in map(json.loads, lines):
                    folders |= {note["folder"]} if "folder" in note else set()
                    if "error" in note:
                        raise (_cannot_start if note["of"] == "fork" else _cannot_write)(note["error"])
                    if "code" in note:
                        workers[note["index"]].ended(note["code"])
            if all(worker.has_begun or worker.outcome.kind != "running" for worker in workers):
                deadline.begin()
            now, kinds = time.monotonic(), [worker.outcome.kind for worker in workers[:awaited]]
            failed = [index for index, kind in enumerate(kinds) if kind not in ("returned", "running")]
            if failed and first is None:
                decided, patience = now + 0.1, min(deadline.time, now + GRACE)
            if failed and now < decided:  # of two at once, a death explains an exception
                first = min(failed, key=lambda index: kinds[index] == "raised")
                if again and kinds[first] == "signal":  # one that leaves by itself may leave together with the others
                    return first
            running = [index for index, kind in enumerate(kinds) if kind == "running"]
            if not running and not (first is not None and kinds[first] == "raised" and now < decided):
                return first
            if first is None and now > deadline.time:
                late = [index for index in running if deadline.kind == "deadline" or not workers[index].has_begun]
                for index in late:
                    outcome = workers[index].outcome
                    outcome.kind, outcome.type = deadline.kind, f"{deadline.allowed:g}"
                return late[0]
            if first is not None and now > patience:
                return first
