"""The launcher: functions of the notebook in fresh processes; what they say, how they end, and nothing left behind."""

import collections
import contextlib
import io
import linecache
import os
import pickle
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types

from course_utils.arguments import finite_number, whole_number
from course_utils.cluster.tf_config import build_tf_config
from course_utils.proofs import message

MOST_WORKERS = 64
GRACE = 12
"""Seconds that the others get to end by themselves once one has failed, so that their errors can be read: TensorFlow
notices at once that a connection breaks, and after ten seconds that a worker's heartbeat has stopped."""
LOG_LINE = re.compile(r"WARNING: All log messages before absl::|([IWE])\d{4} [\d:.]+ +\d+ [\w./]+:\d+\] ")
"""What TensorFlow 2.20 logs, whatever TF_CPP_MIN_LOG_LEVEL says: I, W and E for information, warnings and errors."""
SHOWN = 2**16
"""Characters of a worker's output that are passed on; the last lines go into an error in any case."""


class WorkerError(RuntimeError):
    """What befell a group of workers: the first failure, then how each of them ended, with the last lines it wrote.

    index: the worker that failed first. how: "exception", "deadline", a signal's name, or "exit code 3".
    endings, logs: for each worker, how it ended, and the last lines of what it printed.
    """

    def __init__(self, index, how, text, endings, logs):
        told = [text]
        for ending, log in zip(endings, logs, strict=True):
            told += [ending] * (ending != text or len(endings) > 1) + [f"    {line}" for line in log]
        super().__init__("\n".join(told))
        self.index, self.how, self.endings, self.logs = index, how, endings, logs


def run_on_workers(function, *args, workers=2, timeout=120, restarts=0, env=None, coordinated=False):
    """Run `function(*args)` in fresh processes that form a cluster; return what each returned, in the workers' order.

    function: any function, such as one written in a notebook's cell. It travels with what it refers to and with its
        source; what cannot travel (a strategy, a lock) must be made inside it. Its results travel back.
    workers: how many processes, from 1 to 64. Each finds its place in TF_CONFIG, with a port of this machine that is
        its own while it lives (a server that is not gRPC's must set SO_REUSEADDR to listen there).
    timeout: seconds for everything together, restarts included.
    restarts: how often all of them are started again after one *died* (was killed, or left without returning). Not
        after an exception, which would come again, nor after the deadline.
    env: environment variables for the workers, added to this process's. In each, COURSE_ATTEMPT counts the restarts.
    coordinated: worker 0 coordinates the others. The run ends when it has returned, and how the others fare until then
        is its business: they may wait for ever, fail or die, and then None stands for what they returned.

    What a worker prints appears here at once, its index in front. A worker that has returned stays until all have,
    because the others may still need its server. Workers see no GPU unless `env` sets CUDA_VISIBLE_DEVICES: one GPU
    cannot serve two of them. TMPDIR is a folder of theirs, gone after the run. At the end, after an error, when the
    cell is interrupted and when this process is killed, all workers and what they started are killed.

    Raises WorkerError when a worker raises, dies, or misses the deadline (the others get 12 seconds to say what they
    noticed); ValueError for arguments that make no sense or cannot travel; RuntimeError on other systems than Linux
    and macOS, or when temporary files cannot be written.
    """
    count = whole_number("workers", workers, 1, MOST_WORKERS)
    restarts = whole_number("restarts", restarts)
    deadline = time.monotonic() + finite_number("timeout", timeout)
    call = _packed(function, args)
    env = {"CUDA_VISIBLE_DEVICES": "-1"} | {name: str(value) for name, value in (env or {}).items()}
    names = [f"worker {index}" for index in range(count)]
    for attempt in range(restarts + 1):
        try:
            with _reserved_ports(count) as ports:
                addresses = [f"localhost:{port.getsockname()[1]}" for port in ports]
                configs = [{"TF_CONFIG": build_tf_config(addresses, index)} for index in range(count)]
                each = [env | config | {"COURSE_ATTEMPT": str(attempt)} for config in configs]
                awaited = names[:1] if coordinated else names
                return _run(call, names, each, deadline, timeout, ports, attempt < restarts, awaited)
        except WorkerError as failure:
            if failure.how in ("exception", "deadline") or attempt == restarts:
                raise
            print(f"{str(failure).splitlines()[0]}: all are started again ({attempt + 1} of {restarts})", flush=True)


def run_in_process(function, *args, env=None, timeout=120):
    """Run `function(*args)` in one fresh process without TF_CONFIG, and return what it returns.

    For what must not happen in this process, or cannot any more: a crash, another Keras backend, other devices.
    Everything else is as in `run_on_workers`, but that it sees the GPUs that this process sees.
    """
    deadline = time.monotonic() + finite_number("timeout", timeout)
    env = {name: str(value) for name, value in (env or {}).items()}
    return _run(_packed(function, args), ["the process"], [env], deadline, timeout)[0]


def _packed(function, args):
    """The call as bytes, with the source of what was defined in cells, which no file holds."""
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
        return pickle.dumps((cells, _dumps((function, args))))
    except Exception as problem:  # every type has its own way to refuse
        raise ValueError(
            f"function: {getattr(function, '__name__', function)} or its arguments cannot be sent to another process "
            f"({type(problem).__name__}: {message(problem)[0]}): make such things inside the function"
        ) from problem


def _dumps(value):
    """The value as bytes, by cloudpickle, which forgets in which cell a function stood: here that is kept."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        reduce_code = cloudpickle.Pickler.dispatch_table[types.CodeType]
        dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(
            {types.CodeType: lambda code, reduce=reduce_code: (_code, (code.co_filename, *reduce(code)))}
        )

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def _code(filename, build, parts):
    return build(*parts).replace(co_filename=filename)


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


@contextlib.contextmanager
def _folder(call):
    """A temporary folder with the call in it."""
    path = None
    try:
        path = tempfile.mkdtemp(prefix="course-workers-")
        with open(os.path.join(path, "call"), "wb") as file:
            file.write(call)
    except OSError as problem:
        shutil.rmtree(path or "", ignore_errors=True)
        raise RuntimeError(
            f"temporary files for the workers cannot be written ({problem.strerror}): free some space, or set TMPDIR "
            "to a folder that has some"
        ) from problem
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_addresses(count):
    """As many addresses of this machine, `"localhost:port"`, whose ports are free now (and might be taken later)."""
    with _reserved_ports(whole_number("count", count, 1)) as ports:
        return [f"localhost:{port.getsockname()[1]}" for port in ports]


class _Worker:
    """One process: what it says, what it returns, how it ended."""

    def __init__(self, name, prefix, folder, env, port=None):
        path = os.pathsep.join(os.path.abspath(each) for each in sys.path)
        base = {key: value for key, value in os.environ.items() if key not in ("TF_CONFIG", "COURSE_ATTEMPT")}
        env = base | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TMPDIR": folder} | env
        self.answers, answer = os.pipe()
        fds = [answer] + ([port.fileno()] if port else [])
        command = [sys.executable, "-c", "from course_utils.cluster import workers; workers.work()", *map(str, fds)]
        ways = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            self.process = subprocess.Popen(command, bufsize=0, env=env, pass_fds=fds, start_new_session=True, **ways)
        except BaseException:
            os.close(self.answers)
            raise
        finally:
            os.close(answer)
        level = env.get("TF_CPP_MIN_LOG_LEVEL", "0")
        self.unheard = "IWE"[: int(level) if level.isdigit() else 0]
        self.name, self.prefix, self.ending, self.value = name, prefix, None, None
        self.log, self.shown, self.partial, self.answer = collections.deque(maxlen=25), 0, b"", b""
        self.ways = {self.process.stdout.fileno(): self._hear, self.answers: self._take}
        for way in self.ways:
            os.set_blocking(way, False)

    def read(self, way):
        """Take in what has come through this pipe, a block at most; False if there was nothing."""
        try:
            block = os.read(way, 2**16)
        except BlockingIOError:
            return False
        if block and way in self.ways:
            self.ways[way](block)
        else:
            self.ways.pop(way, None)
        return bool(block)

    def _hear(self, block):
        *lines, self.partial = (self.partial + block).split(b"\n")
        if len(self.partial) > 4096:
            lines, self.partial = [*lines, self.partial], b""
        for line in lines:
            self._say(line)

    def _say(self, line):
        line = line.decode(errors="replace").rstrip("\r").split("\r")[-1]
        self.log.append(line[:1000])
        noise = LOG_LINE.match(line)
        if self.shown <= SHOWN and not (noise and (noise[1] or "I") in self.unheard):
            self.shown += len(line) + 1
            more = "" if self.shown <= SHOWN else f"\n{self.prefix}… (more than {SHOWN // 1024} KiB: not shown)"
            print(f"{self.prefix}{line}{more}", flush=True)

    def _take(self, block):
        self.answer += block
        if len(self.answer) < 8 or len(self.answer) < 8 + int.from_bytes(self.answer[:8], "big"):
            return  # not all of it has come yet
        kind, text, content = pickle.loads(memoryview(self.answer)[8:])
        self.ending, self.value = (kind, f"{self.name} {text}"), content
        if kind == "exception":
            self.log.extend(content.splitlines())

    def look(self):
        """Note if the process has ended without an answer; then whatever it had started ends, too."""
        if self.process.returncode is None and self.process.poll() is not None:
            self._kill()
            for way in list(self.ways):
                while self.read(way):
                    pass
        code = self.process.returncode
        if code is not None and not self.ending:
            dead = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            how = f"was killed by {dead}" if code < 0 else f"left with {dead} before it returned"
            self.ending = (dead, f"{self.name} {how}")

    def _kill(self):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # no such group any more (macOS says the latter)
            os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self):
        if self.process.returncode is None:
            self._kill()

    def close(self):
        """After `stop`: wait for the end, and give back all that the process held here."""
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        os.close(self.answers)
        if self.partial:
            self._say(self.partial)


def _run(call, names, envs, deadline, timeout, ports=(), again=False, awaited=None):
    """Start a process for each name, listen until all have returned or one has failed, and leave none behind.

    again: whether all are started again after a death; then nobody waits for what the others say of it.
    awaited: the names of those that must return, if not all.
    """
    workers = []
    with _folder(call) as folder, selectors.DefaultSelector() as selector:
        try:
            for index, (name, env) in enumerate(zip(names, envs, strict=True)):
                prefix, port = (f"[{index}] ", ports[index]) if ports else ("", None)
                workers.append(_Worker(name, prefix, folder, env, port))
                for way in workers[-1].ways:
                    selector.register(way, selectors.EVENT_READ, workers[-1])
                if port:
                    port.close()
            failure = _listen(workers, selector, deadline, timeout, again, awaited or names)
        finally:
            for worker in workers:
                worker.stop()
            for worker in workers:
                worker.close()
    if failure:
        endings = [worker.ending[1] if worker.ending else f"{worker.name} was still running" for worker in workers]
        raised = {worker.ending[1].partition(" raised ")[2] if worker.ending else "" for worker in workers}
        if len(workers) > 1 and len(raised) == 1 and all(raised):
            failure = (0, "exception", f"every worker raised {raised.pop()}")
        raise WorkerError(*failure, endings, [list(worker.log) for worker in workers])
    return [pickle.loads(each.value) if each.ending and each.ending[0] == "returned" else None for each in workers]


def _listen(workers, selector, deadline, timeout, again, awaited):
    """Pass on what the workers say until the end: None if all returned, or the first failure: (index, how, text)."""
    failure, settled = None, None
    while True:
        for key, _ in selector.select(0.05):
            worker = key.data
            worker.read(key.fd)
            if key.fd not in worker.ways:
                selector.unregister(key.fd)
        for worker in workers:
            worker.look()
        now = time.monotonic()
        ended = [(i, *each.ending) for i, each in enumerate(workers) if each.ending and each.name in awaited]
        failed = [each for each in ended if each[1] != "returned"]
        if failed and not failure:
            settled, deadline = now + 0.1, min(deadline, now + GRACE)
        if failed and now < settled:  # of two at once, a death explains an exception
            failure = min(failed, key=lambda each: each[1] == "exception")
            if again and failure[1] != "exception":
                return failure
        running = [index for index, worker in enumerate(workers) if not worker.ending and worker.name in awaited]
        if not running and not (failure and failure[1] == "exception" and now < settled):
            return failure
        if now > deadline:
            late = " and ".join(workers[index].name for index in running)
            return failure or (running[0], "deadline", f"{late} had not returned after {timeout:g} seconds")


def work():
    """What a worker process does: run the call that lies in TMPDIR, answer, and wait to be stopped."""
    folder, (answer, *ports) = os.environ["TMPDIR"], map(int, sys.argv[1:])
    os.set_inheritable(answer, False)
    lifeline, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    threading.Thread(target=_end_with_the_notebook, args=[lifeline, folder], daemon=True).start()
    try:
        with open(os.path.join(folder, "call"), "rb") as file:
            cells, call = pickle.load(file)
        linecache.cache.update(cells)
        function, args = pickle.loads(call)
        if sys.platform != "linux":
            for port in ports:
                os.close(port)
        told = ("returned", "returned", _portable(function(*args)))
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code)
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else bool(end.code))
    except BaseException as problem:
        told = ("exception", *_account(problem))
    sys.stdout.flush()
    message = pickle.dumps(told)
    with open(answer, "wb") as pipe:
        pipe.write(len(message).to_bytes(8, "big") + message)
    if told[0] == "returned":
        threading.Event().wait()
    os._exit(1)


def _account(problem):
    """What to tell of an exception: a line, and some more with the lines of the reader's code that led to it."""
    lines = message(problem)
    frames = traceback.extract_tb(problem.__traceback__)[1:]  # without the launcher's
    frames = [each for each in frames if "site-packages" not in each.filename] or frames
    some = lines if len(lines) <= 8 else [*lines[:5], "…", *lines[-2:]]
    head = f"{type(problem).__name__}: "
    return f"raised {head}{lines[0]}", "".join(traceback.format_list(frames)) + head + "\n".join(some)


def _portable(value):
    """The result as bytes."""
    try:
        return _dumps(value)
    except Exception as problem:
        raise TypeError(
            f"the result, a {type(value).__name__}, cannot be sent back ({message(problem)[0]}): "
            "return numbers, arrays, lists or dicts"
        ) from problem


def _end_with_the_notebook(lifeline, folder):
    """Wait until nobody holds the other end of this pipe any more; then end, with all that this worker has started."""
    os.read(lifeline, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
