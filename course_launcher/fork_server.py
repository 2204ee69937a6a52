"""The fork server: a process that has loaded what workers need, and forks one for each request.

That takes hundredths of a second, where a fresh interpreter imports TensorFlow for seconds, and the workers share the
memory of what was loaded. Forking a process with threads is right here: importing TensorFlow, Keras and JAX starts none
of their runtimes (devices, CUDA, gRPC come when they are first used), and none of the server's own code is a thread.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
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
import warnings

from course_launcher import child
from course_utils import devices

AT_START = ("PYTHON", "LD_", "DYLD_")
"""Environment variables that are read when Python starts."""
AT_IMPORT = ("TF_", "XLA_", "JAX_", "KERAS_", "OMP_", "KMP_", "MKL_", "OPENBLAS_")
"""Those that are read when TensorFlow, Keras, JAX or NumPy are imported."""
SET_BY_IMPORTS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
"""Those that scikit-learn sets when it is imported: they make no other server necessary."""
PER_RUN = ("TF_CONFIG", "COURSE_ATTEMPT")
FRESH = (
    "import json, sys; fds, path = map(json.loads, sys.argv[1:]); sys.path += path; del sys.argv[1:]; "
    "from course_launcher import child; child.work(*fds)"
)


KILLED = 10
"""Seconds in which a killed process must be gone; one that hangs in the kernel is not waited for any longer."""


class ForkServer:
    """The process that starts workers, which are fresh interpreters if it has loaded no modules (see `serve`)."""

    SERVE = (
        "import json, sys; control, path, preload = map(json.loads, sys.argv[1:]); sys.path[:] = path; "
        "from course_launcher import fork_server; fork_server.serve(control, preload)"
    )
    known, lock = {}, threading.Lock()

    def __init__(self, state, preload, env):
        self.state, self.owner = state, os.getpid()
        self.control, theirs = socket.socketpair()
        words = map(json.dumps, (theirs.fileno(), ["", *search_path()], preload))
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL) | {"start_new_session": True}
        with theirs:
            fds = [theirs.fileno()]
            self.process = subprocess.Popen(
                [sys.executable, "-c", self.SERVE, *words], env=env, pass_fds=fds, **streams
            )

    @classmethod
    def connect(cls, envs: list[dict], fresh: bool = False) -> socket.socket:
        """A connection to the server for workers with these environment variables; it is started if there is none.

        fresh: one whose workers are fresh interpreters, even where they could be forked.
        """
        kind, state, preload, env = _wanted(envs, fresh)
        ours, theirs = socket.socketpair()
        with cls.lock, theirs:
            server = cls.known.get(kind)
            with contextlib.suppress(BrokenPipeError):  # it was killed
                if server and (server.state, server.owner) == (state, os.getpid()):
                    socket.send_fds(server.control, [b"+"], [theirs.fileno()])
                    return ours
            if server:
                server.close()
            server = cls.known[kind] = cls(state, preload, env)
            socket.send_fds(server.control, [b"+"], [theirs.fileno()])
        return ours

    def close(self):
        """It ends now, or when the runs of other threads have, or when it has loaded its modules."""
        self.control.close()
        if self.owner == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)


def _wanted(envs, fresh):
    """Of a server for workers with these variables: kind, variables that must stay the same, modules, environment."""
    base = {name: value for name, value in os.environ.items() if name not in PER_RUN}
    first, *others = [{name: env[name] for name in env if name.startswith(AT_IMPORT) and name not in PER_RUN}
                      for env in envs]  # fmt: skip
    fresh |= sys.platform != "linux" or devices.tpu_in_machine() or bool(devices.unfit_libtpu())
    fresh |= any(other != first for other in others)
    fresh |= any(name.startswith(AT_START) for env in envs for name in env)
    if fresh:
        return "fresh", {}, [], base
    base |= first
    backend = base.get("KERAS_BACKEND", "tensorflow")
    modules = ["tensorflow"] * (backend == "tensorflow" or len(envs) > 1)  # keras.distribution.initialize takes it
    state = {name: value for name, value in base.items()
             if name.startswith(AT_START + AT_IMPORT) and name not in SET_BY_IMPORTS}  # fmt: skip
    kind = (backend, first.keys() <= {"KERAS_BACKEND"})  # one more server for other variables
    return kind, state, [*modules, "keras"], base


@atexit.register
def close_servers() -> None:
    """End all fork servers of this process; the next run starts a new one."""
    while ForkServer.known:
        ForkServer.known.popitem()[1].close()


def search_path() -> list[str]:
    """Where this process finds modules, as absolute folders."""
    return [os.path.abspath(folder) for folder in sys.path]


def serve(control: int, preload: list[str]) -> None:
    """Be a fork server: load these modules, and start workers until nobody holds the other end of `control` any more.

    Without modules to load, each worker is a fresh interpreter. All workers, and whatever they have started, end with
    the connection through which they were asked for.
    """
    _adopt_orphans()
    for name in preload:
        with contextlib.suppress(ImportError):  # where it is missing, the worker will say so
            importlib.import_module(name)
    gc.freeze()  # else a collection in a worker would copy what it shares
    _Server(socket.socket(fileno=control), bool(preload)).serve()


def _adopt_orphans():
    """On Linux, make this process the parent of all descendants who lose theirs, instead of init."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


class _Server:
    """Connections, each the workers of one run: {connection: {process number: index}}, and their folders."""

    def __init__(self, control, forks):
        self.control, self.forks, self.runs, self.folders = control, forks, {}, {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ, self._connect)
        self.signals = os.pipe()
        for end in self.signals:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.signals[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(self.signals[0], selectors.EVENT_READ, self._reap)

    def serve(self):
        while self.control or self.runs:
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def _connect(self, control):
        fds = _receive(control, 1, 1)[1]
        if fds:
            run = socket.socket(fileno=fds[0])
            self.runs[run] = {}
            self.selector.register(run, selectors.EVENT_READ, self._start_or_end)
        else:
            self.selector.unregister(control)
            self.control = None

    def _start_or_end(self, run):
        """Start the worker that is asked for; at the end of the connection, end all of its workers."""
        size, fds = _receive(run, 4, 8)
        request, more = b"", size
        try:
            while more and (missing := int.from_bytes(size, "big") - len(request)):
                request += (more := run.recv(missing))
            if not more:
                return self._end(run)
            request = json.loads(request)
            if run not in self.folders:
                self.folders[run] = tempfile.mkdtemp(prefix="course-workers-", dir=request["temporary"])
            request["env"].setdefault("TMPDIR", tempfile.mkdtemp(dir=self.folders[run]))
            self._report(run, folder=self.folders[run])
        except OSError as problem:
            self._report(run, error=problem.strerror, of="files")
        else:
            try:
                self.runs[run][self._start(request, fds)] = request["index"]
            except OSError as problem:
                self._report(run, error=problem.strerror, of="fork")
        finally:
            for fd in fds:
                os.close(fd)

    def _start(self, request, fds):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*fork\(\)")  # Python's and JAX's, of forking with threads
            pid = os.fork()
        if pid:
            return pid
        try:
            output, *others = fds
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            _adopt_orphans()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(request["folder"])
            if not self.forks:
                for fd in others:
                    os.set_inheritable(fd, True)
                words = [sys.executable, "-c", FRESH, json.dumps(others), json.dumps(request["path"])]
                os.execve(sys.executable, words, request["env"])
            for own in filter(None, (self.control, *self.runs)):
                own.close()
            for fd in (output, *self.signals):
                os.close(fd)
            self.selector.close()
            os.environ.clear()
            os.environ.update(request["env"])
            sys.path[:] = ["", *request["path"]]
            tempfile.tempdir = None
            random.seed()  # a fork inherits the random state
            if "numpy" in sys.modules:
                sys.modules["numpy"].random.seed()
            child.work(*others)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _reap(self, signals):
        """Tell of each worker that has ended how it did, once what it had started has ended, too."""
        os.read(signals, 2**12)
        for run, pids in self.runs.items():
            for pid, index in list(pids.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del pids[pid]
                    self._kill_orphans(pid)
                    self._report(run, index=index, code=os.waitstatus_to_exitcode(status))

    def _report(self, run, **words):
        with contextlib.suppress(OSError):  # nobody listens any more
            run.sendall(json.dumps(words).encode() + b"\n")

    def _end(self, run):
        pids = self.runs.pop(run)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # as macOS says of a group that is no more
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)  # it may not have its group yet
        _wait_for(pids)
        for pid in pids:
            self._kill_orphans(pid)
        shutil.rmtree(self.folders.pop(run, ""), ignore_errors=True)
        self.selector.unregister(run)
        run.close()

    def _kill_orphans(self, pid):
        """Kill what this worker, which has ended, has left: its group, and, on Linux, what has become our child."""
        import psutil

        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        workers = {pid for pids in self.runs.values() for pid in pids}
        deadline = time.monotonic() + KILLED
        while orphans := [child.pid for child in psutil.Process().children() if child.pid not in workers]:
            for orphan in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            if _wait_for(orphans, deadline):
                return


def _wait_for(pids, deadline=None):
    """Ask for the exit codes of killed children; those that are not gone by the deadline, in `KILLED` seconds."""
    deadline = deadline or time.monotonic() + KILLED
    left = set(pids)
    while True:
        for pid in list(left):
            try:
                ended = os.waitpid(pid, os.WNOHANG)[0]
            except ChildProcessError:  # somebody has asked before
                ended = pid
            if ended:
                left.remove(pid)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.001)


def _receive(connection, size, most):
    """Bytes and the file descriptors that come with them; none at the end of the connection."""
    try:
        return socket.recv_fds(connection, size, most)[:2]
    except ConnectionError:
        return b"", ()
