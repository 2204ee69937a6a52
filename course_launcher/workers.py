"""The launcher: functions of the notebook in processes of their own.

A run has a process of its own, which conducts it (run.py). That is forked from one that
has TensorFlow loaded (server.py), and forks the workers (child.py). When one end of a
connection is no more, the other ends.
"""

import contextlib
import linecache
import os
import pickle
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from course_launcher import server
from course_launcher.network import SILENCE as SILENCE_VARIABLE, Network
from course_launcher.outcomes import WorkerError
from course_launcher.packing import pack
from course_launcher.run import Job, reserved_ports
from course_utils.arguments import finite_number, whole_number
from course_utils.errors import message
from course_utils.language import translated as _

MOST_WORKERS = 64
MOST_WITH_NETWORK = 8
GRACE = 12
"""Seconds that the others get to end by themselves once one has failed, so that their
errors can be read: TensorFlow notices at once that a connection breaks, and after ten
seconds that a worker's heartbeat has stopped."""
STARTING = 300
"""Seconds within which all workers must have begun. Only then their `timeout` counts:
loading takes long on a busy machine, and is no fault of theirs."""
SILENCE = 60
"""Seconds without a sign of life from the process of a run, which gives one each
second. Then it is given up.
"""
CLOSING = 20
"""Seconds in which everything of a run must be gone when it ends."""

Environment = dict[str, Any] | None


def run_on_workers(
    function: Callable,
    *args,
    workers: int = 2,
    timeout: float = 120,
    restarts: int = 0,
    env: Environment | Callable[[int], Environment] = None,
    coordinated: bool = False,
    network: Network | None = None,
) -> list:
    """Run `function(*args)` in processes of their own that form a cluster.

    On Linux the workers are forked from a process that has loaded TensorFlow and Keras;
    it starts with the first run and ends with this process. There is another one where
    `env` holds what is read when these are imported (TF_…, KERAS_…, XLA_…, JAX_…,
    OMP_…). Their random numbers differ. Where `env` holds PYTHON… or LD_…, or each
    worker imports with other variables, on macOS, and beside a TPU, they are fresh
    interpreters, which takes seconds.

    What a worker prints appears here at once, its index in front. A worker that has
    returned stays until all have, because the others may still need its server. Workers
    see no GPU unless `env` sets CUDA_VISIBLE_DEVICES: one GPU cannot serve two of them.
    TMPDIR is a folder of each one's own, gone after the run, unless `env` names
    another. At the end, after an error, when the cell is interrupted and when this
    process is killed, all workers and what they started are killed (on macOS not what
    has begun a session of its own).

    Args:
        function: any function, such as one written in a notebook's cell. It travels
            with what it refers to and with its source; what cannot travel (a strategy,
            a lock) must be made inside it. Its results travel back.
        args: its arguments.
        workers: how many processes, from 1 to 64. Each finds its place in TF_CONFIG,
            with a port of this machine that is its own while it lives (a server that is
            not gRPC's must set SO_REUSEADDR to listen there).
        timeout: seconds from when all of them have begun, restarts included. What is
            loaded before may take 300 more.
        restarts: how often all of them are started again after one *died* (was killed,
            or left without returning). Not after an exception, which would come again,
            nor after the deadline.
        env: environment variables for the workers, added to this process's: a dict, or
            a function from a worker's index to one. COURSE_ATTEMPT counts the restarts.
        coordinated: worker 0 coordinates the others. The run ends when it has returned,
            and how the others fare until then is its business: they may wait for ever,
            fail or die, and then None stands for what they returned.
        network: links of chosen latency and bandwidth between the workers; None: as
            fast as this machine's own. For TensorFlow, whose workers meet and exchange
            at the addresses in TF_CONFIG.

    Returns:
        What each worker returned, in their order.

    Raises:
        WorkerError: when a worker raises, dies, or misses the deadline (the others get
            12 seconds to say what they noticed).
        ValueError: for arguments that make no sense or cannot travel, and for `network`
            where `env` or this process chooses JAX, or with `coordinated`.
        RuntimeError: on other systems than Linux and macOS, or when processes cannot be
            started or temporary files not be written.
    """
    count = whole_number("workers", workers, 1, MOST_WORKERS)
    envs = []
    for index in range(count):
        own = env(index) if callable(env) else env
        envs.append({"CUDA_VISIBLE_DEVICES": "-1"} | _texts(own))
    if network is not None:
        _check_network(network, envs, coordinated)
    return _run(
        _packed(function, args),
        [f"worker {index}" for index in range(count)],
        envs,
        is_cluster=True,
        awaited=1 if coordinated else count,
        restarts=whole_number("restarts", restarts),
        timeout=finite_number("timeout", timeout),
        network=network,
    )


def run_in_process(
    function: Callable, *args, env: Environment = None, timeout: float = 120
) -> Any:
    """Run `function(*args)` in one process of its own, and return what it returns.

    For what must not happen in this process, or cannot any more: a crash, another Keras
    backend, other devices. There is no TF_CONFIG, and it sees the GPUs that this
    process sees. Everything else is as in `run_on_workers`.
    """
    (value,) = _run(
        _packed(function, args),
        [_("the process")],
        [_texts(env)],
        is_cluster=False,
        awaited=1,
        restarts=0,
        timeout=finite_number("timeout", timeout),
        network=None,
    )
    return value


def free_addresses(count: int) -> list[str]:
    """Return as many addresses of this machine, "localhost:port".

    Their ports are free now, and might be taken later.
    """
    with reserved_ports(whole_number("count", count, 1)) as ports:
        return [f"localhost:{port.getsockname()[1]}" for port in ports]


def prepare(*envs: dict) -> None:
    """Load, on Linux, what workers with each `env` need, while this process goes on.

    Else their first run waits.
    """
    if sys.platform == "linux":
        for env in envs:
            server.prepare(_texts(env))


def _texts(env):
    return {name: str(value) for name, value in (env or {}).items()}


def _check_network(network, envs, coordinated):
    if not isinstance(network, Network):
        raise ValueError(
            _(
                "network={network!r}: must be a Network, such as "
                "Network(latency_ms=2, megabytes_per_second=12.5)",
                network=network,
            )
        )
    if len(envs) > MOST_WITH_NETWORK:
        raise ValueError(
            _(
                "network: for at most {most} workers, not "
                "{count}: each two of them have a link",
                most=MOST_WITH_NETWORK,
                count=len(envs),
            )
        )
    if coordinated:
        raise ValueError(
            _(
                "network: not for coordinated runs: TensorFlow tells all "
                "workers the coordinator's addresses, so that they would share "
                "the coordinator's links"
            )
        )
    if any((os.environ | env).get("KERAS_BACKEND") == "jax" for env in envs):
        raise ValueError(
            _(
                "network: only for TensorFlow's workers. JAX's "
                "(KERAS_BACKEND=jax) choose ports at random and tell them to "
                "each other, past any link"
            )
        )


def _packed(function, args):
    """Return the call as bytes, with the source of the cells, which no file holds."""
    if not sys.platform.startswith(("linux", "darwin")):
        raise RuntimeError(
            _(
                "worker processes can be started on Linux and macOS, and this "
                "is {platform}: on Windows use WSL2",
                platform=sys.platform,
            )
        )
    if not callable(function):
        raise ValueError(
            _("function={function!r}: must be a function", function=function)
        )
    cells = {}
    for name, entry in list(linecache.cache.items()):
        if len(entry) == 4 and not os.path.exists(name):
            # Without a time of change: else linecache looks for a file, and forgets.
            cells[name] = (entry[0], None, *entry[2:])
    try:
        return pack((cells, function, args))
    except Exception as problem:  # every type has its own way to refuse
        raise ValueError(
            _(
                "function: {name} or its arguments cannot be sent to "
                "another process ({error}: {reason}): make such things inside the "
                "function",
                name=getattr(function, "__name__", function),
                error=type(problem).__name__,
                reason=message(problem)[0],
            )
        ) from problem


def _run(call, names, envs, **wishes):
    """Have a run conducted, print what its workers print; return what they returned.

    wishes: what else a `Job` has that the caller decides.
    """
    begin_until = time.monotonic() + STARTING
    inherited = dict(os.environ)
    for name in "TF_CONFIG", "COURSE_ATTEMPT", SILENCE_VARIABLE:
        inherited.pop(name, None)
    job = Job(
        call=call,
        names=names,
        envs=[inherited | env for env in envs],
        begin_until=begin_until,
        starting=STARTING,
        grace=GRACE,
        search_path=server.search_path(),
        folder=os.getcwd(),
        temporary=tempfile.gettempdir(),
        **wishes,
    )
    conversation = _Conversation(_start(envs, begin_until))
    with contextlib.closing(conversation):
        return conversation.hold(job)


def _start(envs, until):
    try:
        return server.start_run(envs, until)
    except TimeoutError:
        raise RuntimeError(
            _(
                "the process that starts the workers has not answered within "
                "{seconds} seconds: close other programs, and try again",
                seconds=STARTING,
            )
        ) from None
    except server.ServerHasEnded:
        raise RuntimeError(
            _(
                "the process that starts the workers ended before it started "
                "one: see what python -c 'import course_launcher' says here"
            )
        ) from None
    except OSError as problem:
        raise RuntimeError(_cannot_start(problem.strerror)) from problem


def _cannot_start(why):
    return _(
        "a worker process cannot be started ({why}): this machine has too "
        "many processes or too little memory; end some, or ask for fewer "
        "workers",
        why=why,
    )


def _cannot_write(why):
    return _(
        "temporary files for the workers cannot be written ({why}): free "
        "some space, or set TMPDIR to a folder that has some",
        why=why,
    )


class _Conversation:
    """What this process and the process of a run tell each other (see run.conduct)."""

    def __init__(self, process):
        self.process = process
        self.connection = process.connection
        self.folders = set()
        self.has_answered = True

    def hold(self, job):
        """Hand over the job; return what the workers returned."""
        try:
            self.connection.send(job)
            failed, outcomes = self._listen()
            if failed is not None:
                raise WorkerError(failed, outcomes)
            values = [self._next_value() for _ in outcomes]
        except (EOFError, OSError):  # OSError: it ended in the middle of a message
            raise RuntimeError(_("the process of the run was killed")) from None
        return [pickle.loads(value) if value else None for value in values]

    def _listen(self):
        """Print what the workers print, until they have ended; return how."""
        while True:
            kind, content = self._next_note()
            if kind == "line":
                print(content, flush=True)
            elif kind == "folder":
                self.folders.add(content)
            elif kind == "ended":
                return content
            elif kind == "cannot start":
                raise RuntimeError(_cannot_start(content))
            elif kind == "cannot write":
                raise RuntimeError(_cannot_write(content))
            elif kind == "traceback":
                raise RuntimeError(
                    _("the process of the run failed:\n{content}", content=content)
                )

    def _next_note(self):
        self._wait_for_a_message()
        return self.connection.recv()

    def _next_value(self):
        self._wait_for_a_message()
        return self.connection.recv_bytes()

    def _wait_for_a_message(self):
        if not self.connection.poll(SILENCE):
            self.has_answered = False
            raise RuntimeError(
                _(
                    "the process of the run has not been heard of for "
                    "{seconds:g} seconds",
                    seconds=SILENCE,
                )
            )

    def close(self):
        """End the run, wait until its workers have ended, remove what it has left."""
        try:
            if self.has_answered:
                self._hang_up()
                self._wait_for_the_end()
        except OSError:
            pass  # it has ended
        finally:
            if not self.has_answered:
                print(_("the run does not end, and is killed"), flush=True)
                self.process.kill()
            self.process.close()
            for folder in self.folders:  # there is none, unless the process was killed
                shutil.rmtree(folder, ignore_errors=True)

    def _hang_up(self):
        """Send nothing more: that ends the run, wherever this end was interrupted."""
        with socket.socket(fileno=os.dup(self.connection.fileno())) as end:
            end.shutdown(socket.SHUT_WR)

    def _wait_for_the_end(self):
        until = time.monotonic() + CLOSING
        while self.connection.poll(max(0, until - time.monotonic())):
            # Bytes, not messages: an interrupt may have come in the middle of one.
            if not os.read(self.connection.fileno(), 2**20):
                return
        self.has_answered = False
