"""Where the process of a run comes from: a server that has loaded TensorFlow and Keras.

It forks that process in hundredths of a second, where a fresh interpreter imports
TensorFlow for seconds; and all share the memory of what is loaded. Forking is right
here: importing TensorFlow, Keras and JAX starts none of their runtimes (devices, CUDA,
gRPC come when they are first used).
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from multiprocessing.connection import Connection

from course_launcher import run
from course_utils import devices

READ_AT_START = ("PYTHON", "LD_", "DYLD_")
"""Environment variables that are read when Python starts."""
READ_AT_IMPORT = (
    "TF_",
    "XLA_",
    "JAX_",
    "KERAS_",
    "OMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
)
"""Those that are read when TensorFlow, Keras, JAX or NumPy are imported."""
READ_LATER = ("TF_CONFIG", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
"""Those that only look so: scikit-learn sets two of them when it is imported."""
LOADED = ("tensorflow", "keras")
"""What a server loads. With the variables it decides which runs it can start."""
MOST_SERVERS = 3
LAST_MOMENTS = 2
"""Seconds in which a process that ends should be gone."""
CONDUCT = "from course_launcher import run; run.conduct({})"
SERVE = "from course_launcher import server; server.serve({})"


class ServerHasEnded(Exception):
    """The process that starts a run has ended before it did."""


class Server:
    """A process that has loaded what workers need, and forks the process of a run.

    It ends when `close` is called, or when this process is no more.
    """

    def __init__(self, env: dict[str, str]):
        self.owner = os.getpid()
        self.requests, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = _start_python(SERVE, theirs, env)
        except BaseException:
            self.requests.close()
            raise

    def fork(self, connection: socket.socket) -> None:
        """Have it fork a process that conducts a run with this end of a connection."""
        with contextlib.suppress(BrokenPipeError):  # it was killed: nobody will answer
            socket.send_fds(self.requests, [b"+"], [connection.fileno()])

    def close(self) -> None:
        """Let it end; the runs that it has started go on."""
        self.requests.close()
        if self.owner == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LAST_MOMENTS)


class RunProcess:
    """A process that conducts a run, and the connection to it.

    own: what this process has started itself; None if a server has forked it.
    """

    def __init__(self, connection: Connection, own: subprocess.Popen | None):
        self.connection, self.own = connection, own
        self.number = 0

    def greet(self, seconds: float) -> None:
        """Wait until it says that it is ready."""
        if not self.connection.poll(seconds):
            raise TimeoutError
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            raise ServerHasEnded from None
        if kind == "cannot start":
            raise OSError(0, content)
        self.number = content

    def kill(self) -> None:
        """Kill it; its workers then end by themselves."""
        if self.own:
            self.own.kill()
        elif self.number:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.number, signal.SIGKILL)

    def close(self) -> None:
        """Close the connection, which ends it. Wait until it is gone, a short time."""
        self.connection.close()
        until = time.monotonic() + LAST_MOMENTS
        while self._is_there() and time.monotonic() < until:
            time.sleep(0.001)

    def _is_there(self):
        if self.own:
            return self.own.poll() is None
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return False
        return bool(self.number)  # 0 would be this process's own group


servers: dict[frozenset, Server] = {}
"""By the early variables that each was started with; the oldest one comes first."""
_lock = threading.Lock()


def start_run(envs: list[dict[str, str]], until: float) -> RunProcess:
    """Return a new process that conducts a run.

    It waits until all is loaded. Should a server end meanwhile, because TensorFlow
    aborts when it is imported, say, the run gets fresh interpreters.

    Args:
        envs: for each worker, the variables besides this process's own.
        until: when it must answer (time.monotonic).

    Raises:
        TimeoutError: when it has not answered in time.
        ServerHasEnded: when even a fresh interpreter ends.
        OSError: when no process can be started.
    """
    if not _must_be_fresh(envs):
        with contextlib.suppress(ServerHasEnded):
            return _start(envs, until, is_fresh=False)
        close_servers()
    return _start(envs, until, is_fresh=True)


def prepare(env: dict[str, str]) -> None:
    """See that there is a server for workers with these variables.

    If there is none, it starts now, and loads while this process goes on. Where workers
    must be fresh interpreters, there is nothing to prepare.
    """
    if not _must_be_fresh([env]):
        with _lock:
            _server_for(env)


def _server_for(env):
    """Return the server for workers with these variables; the lock must be held."""
    whole = os.environ | {name: env[name] for name in env if _is_early(name)}
    early = frozenset(item for item in whole.items() if _is_early(item[0]))
    server = servers.get(early)
    if server and server.process.poll() is None:
        return server
    if server:  # it was killed
        servers.pop(early).close()
    while len(servers) >= MOST_SERVERS:
        servers.pop(next(iter(servers))).close()
    servers[early] = Server(whole)
    return servers[early]


@atexit.register
def close_servers() -> None:
    """End all servers of this process; the next run starts a new one."""
    with _lock:
        while servers:
            servers.popitem()[1].close()


def search_path() -> list[str]:
    """Return where this process finds modules, as absolute folders."""
    return ["", *map(os.path.abspath, sys.path)]


def serve(requests: int) -> None:
    """Be a server: load the modules, then fork for each connection that comes.

    It ends when the notebook closes its end of `requests`, a file descriptor.
    """
    for name in LOADED:
        with contextlib.suppress(ImportError):  # where it is missing, a worker says so
            importlib.import_module(name)
    gc.freeze()  # else a collection in a worker would copy what it shares
    # nobody asks how a run's process ends
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    warnings.filterwarnings("ignore", r".*fork\(\)")  # Python's and JAX's, of threads
    with socket.socket(fileno=requests) as connections:
        while fds := socket.recv_fds(connections, 1, 1)[1]:
            try:
                is_run = os.fork() == 0
            except OSError as problem:
                with contextlib.suppress(OSError):  # the notebook has ended
                    Connection(fds[0]).send(("cannot start", problem.strerror))
                continue
            if is_run:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                connections.close()
                run.conduct(fds[0], "fork")
            os.close(fds[0])


def _must_be_fresh(envs):
    """Return whether each worker must be a fresh interpreter.

    It must where forking is not safe, where a variable is read when Python starts, and
    where the workers import with other variables than each other.
    """
    if sys.platform != "linux" or devices.tpu_in_machine() or devices.unfit_libtpu():
        return True
    if any(name.startswith(READ_AT_START) for env in envs for name in env):
        return True
    early = [{name: env[name] for name in env if _is_early(name)} for env in envs]
    return any(one != early[0] for one in early)


def _is_early(name):
    return name.startswith(READ_AT_START + READ_AT_IMPORT) and name not in READ_LATER


def _start(envs, until, is_fresh):
    ours, theirs = socket.socketpair()
    process = RunProcess(Connection(ours.detach()), None)
    try:
        with theirs:
            if is_fresh:
                process.own = _start_python(CONDUCT, theirs, os.environ)
            else:
                with _lock:  # nobody closes the server meanwhile
                    _server_for(envs[0]).fork(theirs)
        process.greet(max(0, until - time.monotonic()))
    except BaseException:
        process.kill()
        process.close()
        raise
    return process


def _start_python(code, connection, env):
    """Start Python with this end of a connection, and with nothing else that is open.

    code: what it runs, with {} in the place of the connection's file descriptor.
    """
    where = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    code = where + code.format(connection.fileno())
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(search_path())],
        env=env,
        pass_fds=[connection.fileno()],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
