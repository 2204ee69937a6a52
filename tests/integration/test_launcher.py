"""The launcher: what travels, and how a run can end.

Values and errors go to the workers and back, a run ends in every way it can, and
nothing is left behind.
"""

import contextlib
import glob
import importlib
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time

import jupyter_client
import nbclient
import nbformat
import numpy as np
import psutil
import pytest

from course_launcher import (
    Outcome,
    WorkerError,
    check_tf_config,
    prepare,
    run,
    run_in_process,
    run_on_workers,
    server,
    workers,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="worker processes need Linux or macOS"
)


@pytest.fixture(autouse=True)
def nothing_is_left(request, tmp_path_factory, monkeypatch):
    """Of processes, threads, open files, and files in the folder for temporary ones."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(workers, "GRACE", 1)

    def traces():
        """But for the servers, which stay, and the file that holds each of them."""
        servers = {each.process.pid for each in server.servers.values()}
        children = {
            child.pid for child in psutil.Process().children(recursive=True)
        } - servers
        files = psutil.Process().num_fds() - len(servers)
        return children, set(threading.enumerate()), list(folder.iterdir()), files

    before = traces()
    yield
    checked = (
        3 if "notebook" in request.node.name else 4
    )  # a Jupyter client keeps files open for a while
    assert traces()[:checked] == before[:checked]


def failure(error):
    first = error.outcomes[error.index]
    return first.kind, first.type


def index():
    return json.loads(os.environ["TF_CONFIG"])["task"]["index"]


def number_of_server():
    """A worker's parent is the process of its run, which the server has forked."""
    return psutil.Process(os.getppid()).ppid()


def die(how=signal.SIGKILL):
    os.kill(os.getpid(), how)


def wait():
    threading.Event().wait()


def runs(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return (
            psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        )  # ended, though nobody has asked for its exit code
    return False


def rare(*values):
    """A case that `nox -s soak` runs, and `make test` does not."""
    return pytest.param(*values, marks=pytest.mark.slow)


def gone(pids, seconds=30):
    """Whether these processes end within a time."""
    deadline = time.monotonic() + seconds
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(runs, pids))


@pytest.mark.parametrize("count", [1, 2, rare(4), rare(8)])
def test_results_come_back_in_the_workers_order(count):
    found = run_on_workers(
        lambda factor: (factor * index(), os.environ["TF_CONFIG"]), 10, workers=count
    )
    configs = [json.loads(text) for _, text in found]
    assert [value for value, _ in found] == [10 * k for k in range(count)]
    assert [config["task"] for config in configs] == [
        {"type": "worker", "index": k} for k in range(count)
    ]
    addresses = configs[0]["cluster"]["worker"]
    assert len(set(addresses)) == count and all(
        config["cluster"] == configs[0]["cluster"] for config in configs
    )
    assert all(address.startswith("localhost:") for address in addresses)


def test_its_port_is_its_own_until_the_end_and_free_for_a_server_as_grpc_makes_it():
    def own():
        import socket

        port = int(
            json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][index()].split(
                ":"
            )[1]
        )
        kept, findings = not bound(port), check_tf_config(os.environ["TF_CONFIG"])
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("", port))
            server.listen()
            with (
                socket.create_connection(("localhost", port), timeout=10) as client,
                server.accept()[0] as end,
            ):
                end.sendall(b"served")
                return kept, findings, client.recv(6)

    assert run_on_workers(own) == [(sys.platform == "linux", [], b"served")] * 2
    with run.reserved_ports(2) as ports:
        numbers = [port.getsockname()[1] for port in ports]
        assert len(numbers) == 2 and not any(map(bound, numbers))
    assert all(map(bound, numbers))


def bound(port):
    import socket

    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def test_environment_for_the_workers(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "another cluster's")
    monkeypatch.setenv("COURSE_ATTEMPT", "7")
    env = {"COURSE_TEST": 3, "CUDA_VISIBLE_DEVICES": "0"}
    seen = run_on_workers(
        lambda: [os.environ[name] for name in env], workers=1, env=env
    )
    assert seen == [["3", "0"]] and "COURSE_TEST" not in os.environ
    alone = run_in_process(
        lambda: {name: os.environ.get(name) for name in ("TF_CONFIG", "COURSE_ATTEMPT")}
    )
    assert alone == {"TF_CONFIG": None, "COURSE_ATTEMPT": None}


def test_the_environment_asked_for_reaches_the_function_and_is_not_deleted(tmp_path):
    (tmp_path / "own_module.py").write_text("value = 7")

    def look():
        pathlib.Path(tempfile.mkdtemp(), "kept").touch()
        return (
            importlib.import_module("own_module").value,
            os.environ["PYTHONPATH"],
            os.environ["TMPDIR"],
            tempfile.gettempdir(),
        )

    env = {"PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    assert run_on_workers(look, env=env) == [(7, *[str(tmp_path)] * 3)] * 2
    assert len(list(tmp_path.glob("tmp*/kept"))) == 2


linux = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")


@linux
@pytest.mark.parametrize(
    "env, loaded",
    [
        ({}, {"tensorflow", "keras"}),
        ({"KERAS_BACKEND": "jax"}, {"tensorflow", "keras"}),
        rare(
            {
                "KERAS_BACKEND": "jax",
                "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
            },
            {"tensorflow", "keras"},
        ),
        rare(
            {"CUDA_VISIBLE_DEVICES": "0", "TF_CONFIG": "mine"}, {"tensorflow", "keras"}
        ),
        rare({"TF_CPP_MIN_LOG_LEVEL": "1"}, {"tensorflow", "keras"}),
        ({"PYTHONHASHSEED": "1"}, set()),
    ],
)
def test_who_is_forked_and_who_is_fresh(env, loaded):
    def look():
        modules = {name for name in ("tensorflow", "keras") if name in sys.modules}
        import keras

        devices = (
            len(keras.distribution.list_devices("cpu"))
            if keras.backend.backend() == "jax"
            else 1
        )
        return modules, keras.backend.backend(), devices

    wanted = (
        loaded,
        env.get("KERAS_BACKEND", "tensorflow"),
        3 if "XLA_FLAGS" in env else 1,
    )
    assert run_in_process(look, env=env) == wanted


@pytest.mark.slow
@linux
def test_what_is_prepared_is_used(monkeypatch):
    prepare({"KERAS_BACKEND": "numpy"})
    *_, prepared = server.servers.values()
    monkeypatch.setenv("KMP_INIT_AT_FORK", "an import has set it")
    assert (
        run_in_process(number_of_server, env={"KERAS_BACKEND": "numpy"})
        == prepared.process.pid
    )


@pytest.mark.slow
@linux
def test_workers_that_import_with_other_variables_than_each_other():
    def look():
        return os.environ["OMP_NUM_THREADS"], "keras" in sys.modules

    different = run_on_workers(look, env=lambda index: {"OMP_NUM_THREADS": index + 1})
    assert different == [("1", False), ("2", False)]
    assert run_on_workers(look, env={"OMP_NUM_THREADS": 2}) == [("2", True)] * 2


@pytest.mark.slow
def test_random_numbers_differ_between_workers_and_between_runs():
    def draw():
        import random

        import keras
        import tensorflow as tf

        shuffled = list(tf.data.Dataset.range(1000).shuffle(1000).as_numpy_iterator())
        numbers = (
            random.random(),
            np.random.rand(),
            float(keras.random.uniform(())),
            float(tf.random.uniform(())),
        )
        return *numbers, tuple(shuffled)

    drawn = run_on_workers(draw) + run_on_workers(draw)
    assert [len(set(values)) for values in zip(*drawn, strict=True)] == [4] * 5


def test_output_is_streamed_with_the_workers_index(capfd):
    def speak():
        print("on stdout, no end of line:", index(), end="")
        sys.stdout.flush()
        os.write(2, b" and on stderr\nprogress 1\rprogress 2\n\xff\n")

    run_on_workers(speak)
    lines = capfd.readouterr().out.splitlines()
    for k in range(2):
        said = [line for line in lines if line.startswith(f"[{k}] ")]
        assert said == [
            f"[{k}] on stdout, no end of line: {k} and on stderr",
            f"[{k}] progress 2",
            f"[{k}] \N{REPLACEMENT CHARACTER}",
        ]
    run_in_process(lambda: print("no index", end=""))
    assert capfd.readouterr().out == "no index\n"


def test_ten_mebibytes_of_output(capfd):
    def flood(line):
        for _ in range(10 * 2**20 // len(line)):
            sys.stdout.write(line)
        raise ValueError("the end")

    for line in "all work and no play\n", "x" * 1024:
        with pytest.raises(WorkerError, match="the end") as caught:
            run_on_workers(flood, line)
        shown = capfd.readouterr().out
        assert shown.count("not shown") == 2 and len(shown) < 2**18
        assert all(
            sum(map(len, log)) < 2**16
            for log in [outcome.log for outcome in caught.value.outcomes]
        )


@pytest.mark.parametrize("level, heard", [(0, 4), (1, 2), (2, 1), (3, 0), ("?", 4)])
def test_log_lines_that_ignore_the_log_level(capfd, level, heard):
    lines = [
        (
            "WARNING: All log messages before absl::InitializeLog() "
            "is called are written to STDERR"
        ),
        (
            "I0000 00:00:1795571068.7 13 grpc_server_lib.cc:466] "
            "Started server with target: grpc://localhost:3"
        ),
        "W0000 00:00:1795571068.7 13 some/file.cc:4] words",
        "E0000 00:00:1795571068.7 13 chttp2_server.cc:1177] UNKNOWN: No address added",
        "E0000 what else",
    ]

    def log():
        print("\n".join(lines))
        raise ValueError

    with pytest.raises(WorkerError) as caught:
        run_in_process(
            log, env={"TF_CPP_MIN_LOG_LEVEL": level, "PYTHONHASHSEED": 0}
        )  # fresh
    assert capfd.readouterr().out.splitlines() == lines[4 - heard :]
    assert caught.value.outcomes[0].log[:5] == lines, (
        "what is not shown is still there to be read after an error"
    )


def test_an_error_from_inside_a_graph_is_told_by_what_happened():
    def overflow():
        import tensorflow as tf

        tf.function(lambda x: tf.debugging.check_numerics(x, "bad"))(
            tf.constant(float("nan"))
        )

    with pytest.raises(WorkerError) as caught:
        run_in_process(overflow)
    assert (
        "the process raised InvalidArgumentError: bad : Tensor had NaN values"
        in str(caught.value)
    )
    assert "site-packages" not in str(caught.value) and "tf.function(lambda x" in str(
        caught.value
    )


def test_source_travels_along():
    """As from a notebook, whose cells are in no file but in linecache."""
    import linecache

    told = "def told():\n    import inspect\n    return inspect.getsource(told)\n"
    cell = told + "\ndef bad():\n    raise KeyError(1)  # here\n"
    for entry in (
        ("cell-1.py", (len(cell), None)),
        ("<ipython-input-1-abc>", (len(cell), time.time())),
    ):
        name, (size, changed) = entry
        linecache.cache[name] = (size, changed, cell.splitlines(keepends=True), name)
        space = {"__name__": "__main__"}
        exec(compile(cell, name, "exec"), space)
        assert run_in_process(space["told"]) == told
        with pytest.raises(WorkerError) as caught:
            run_in_process(space["bad"])
        assert "    raise KeyError(1)  # here" in [
            line.rstrip() for line in caught.value.outcomes[0].log
        ]
        del linecache.cache[name]


def test_a_worker_that_raises():
    def uneven():
        if index() == 1:
            print("a last word")
            raise ValueError("no\nsecond line")
        wait()

    start = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        run_on_workers(uneven, restarts=3)
    error, took = caught.value, time.monotonic() - start
    assert (error.index, failure(error)) == (
        1,
        ("raised", "ValueError"),
    ) and took >= workers.GRACE
    assert str(error).startswith("worker 1 raised ValueError: no\n")
    assert list(map(str, error.outcomes)) == [
        "worker 0 was still running",
        "worker 1 raised ValueError: no",
    ]
    assert (
        error.outcomes[0].log == []
        and error.outcomes[1].log[0] == "a last word"
        and error.outcomes[1].log[-1] == "second line"
    )
    assert 'raise ValueError("no\\nsecond line")' in str(
        error
    ) and "workers.py" not in str(error)


def test_an_exception_on_every_worker_is_not_tried_again(tmp_path):
    def note():
        (tmp_path / f"{os.getpid()}").touch()
        raise OSError

    with pytest.raises(
        WorkerError, match=r"^every worker raised OSError: \(no message\)\n"
    ) as caught:
        run_on_workers(note, restarts=3)
    assert len(list(tmp_path.iterdir())) == 2
    assert list(map(str, caught.value.outcomes)) == [
        f"worker {k} raised OSError: (no message)" for k in range(2)
    ]


@pytest.mark.parametrize(
    "how",
    [signal.SIGKILL, signal.SIGTERM, *map(rare, [signal.SIGSEGV, signal.SIGABRT])],
)
def test_a_worker_that_is_killed(how):
    def one_dies():
        print("started")
        if index() == 1:
            die(how)

    with pytest.raises(
        WorkerError, match=f"worker 1 was killed by {how.name}"
    ) as caught:
        run_on_workers(one_dies)
    assert (caught.value.index, failure(caught.value)) == (1, ("signal", how.name))
    assert str(
        caught.value.outcomes[0]
    ) == "worker 0 returned" and caught.value.outcomes[1].log == ["started"]


def test_a_signal_without_a_name():
    with pytest.raises(WorkerError, match="the process was killed by signal 40"):
        run_in_process(die, 40)


@pytest.mark.slow
@linux
def test_a_run_that_does_not_answer(monkeypatch, capsys):
    """Its process is stopped.

    The notebook gives it up and kills it, and its workers end.
    """
    monkeypatch.setattr(workers, "SILENCE", 3)
    seen = pathlib.Path(tempfile.gettempdir(), "seen")

    def stop():
        seen.write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGSTOP)
        wait()

    with pytest.raises(
        RuntimeError, match="the process of the run has not been heard of for 3 seconds"
    ):
        run_in_process(stop)
    assert gone([int(seen.read_text())])
    seen.unlink()


@linux
def test_a_run_that_does_not_end(monkeypatch, capsys):
    """Its process is stopped when it should end its workers.

    It is killed, and they end by themselves.
    """

    def stop(conversation):
        kind, content = conversation._next_note()
        while kind != "line":
            conversation.folders |= {content} if kind == "folder" else set()
            kind, content = conversation._next_note()
        os.kill(conversation.process.number, signal.SIGSTOP)
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "CLOSING", 0.5)
    monkeypatch.setattr(workers._Conversation, "_listen", stop)
    children = set(psutil.Process().children(recursive=True))
    with pytest.raises(KeyboardInterrupt):
        run_in_process(lambda: print("begun", flush=True) or wait())
    assert "the run does not end, and is killed" in capsys.readouterr().out
    assert gone(
        [
            child.pid
            for child in psutil.Process().children(recursive=True)
            if child not in children
        ]
    )


@pytest.mark.slow
@linux
def test_the_process_of_a_run_that_is_killed():
    with pytest.raises(RuntimeError, match="the process of the run was killed"):
        run_on_workers(lambda: os.kill(os.getppid(), signal.SIGKILL) or wait())
    assert run_on_workers(index) == [0, 1]


@pytest.mark.slow
@linux
def test_a_server_that_is_killed():
    """The next run starts another one.

    A run that goes on is not its child's business.
    """
    number = run_in_process(number_of_server)
    os.kill(number, signal.SIGKILL)
    assert run_on_workers(index) == [0, 1]
    assert run_in_process(number_of_server) != number


@linux
def test_an_error_of_the_run_itself_comes_with_its_traceback(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "getcwd", lambda: "/nowhere")
        with pytest.raises(
            RuntimeError,
            match=r"(?s)the process of the run failed:\n.*FileNotFoundError.*/nowhere",
        ):
            run_in_process(int)


@pytest.mark.slow
@linux
def test_a_tensorflow_that_aborts_when_it_is_imported(tmp_path, monkeypatch):
    """Workers that do not need it start all the same, as fresh interpreters."""
    (tmp_path / "tensorflow.py").write_text("import os; os.abort()")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        patch.setenv("TF_OTHER", "1")
        assert run_on_workers(index) == [0, 1]
    run_in_process(int)


def test_a_death_explains_the_exception_that_it_causes():
    """Worker 0 notices at once that worker 1 has died, and raises.

    It is the death that counts.
    """

    def notice(pid):
        if index() == 1:
            pid.write_text(str(os.getpid()))
            die()
        while (
            not pid.exists()
            or not pid.read_text()
            or os.path.exists(f"/proc/{pid.read_text()}/exe")
        ):
            pass
        raise ConnectionError("the other has gone")

    with tempfile.TemporaryDirectory() as folder, pytest.raises(WorkerError) as caught:
        run_on_workers(notice, pathlib.Path(folder, "pid"), restarts=0)
    assert failure(caught.value) == ("signal", "SIGKILL")
    assert (
        str(caught.value.outcomes[0])
        == "worker 0 raised ConnectionError: the other has gone"
    )


def test_restarts(capfd):
    def dies_twice():
        attempt = int(os.environ["COURSE_ATTEMPT"])
        if attempt < 2 and index() == attempt:
            die()
        return attempt, json.loads(os.environ["TF_CONFIG"])["cluster"]

    (attempt, one), (_, other) = run_on_workers(dies_twice, restarts=2)
    assert attempt == 2 and one == other
    said = capfd.readouterr().out
    assert "worker 0 was killed by SIGKILL: all are started again (1 of 2)\n" in said
    assert "worker 1 was killed by SIGKILL: all are started again (2 of 2)\n" in said
    with pytest.raises(WorkerError, match="worker 1 was killed by SIGKILL"):
        run_on_workers(dies_twice, restarts=1)


@pytest.mark.slow
def test_workers_that_leave_together_may_finish_what_they_do(tmp_path, monkeypatch):
    """Workers end as TensorFlow's do when they are preempted.

    All save, then each leaves with exit code 42.
    """
    monkeypatch.setattr(workers, "GRACE", 60)

    def leave():
        if os.environ["COURSE_ATTEMPT"] == "0":
            if index() == 0:
                time.sleep(0.5)  # still saving when the other has left
                (tmp_path / "saved").touch()
            os._exit(42)
        return (tmp_path / "saved").exists()

    assert run_on_workers(leave, restarts=1) == [True, True]


def coordinate(folder, fate):
    """Worker 0 waits for worker 1, sees to worker 2's end, and returns or fails.

    Worker 1 waits for ever.
    """
    pid = pathlib.Path(folder, str(index()))
    pid.write_text(str(os.getpid()))
    if index() == 1:
        wait()
    if index() == 2:
        die()
    while not pathlib.Path(folder, "1").exists() or runs(
        int(pathlib.Path(folder, "2").read_text() or 1)
    ):
        time.sleep(0.01)
    return 1 // fate


def test_a_coordinator_ends_the_run_whatever_became_of_the_others(tmp_path):
    pathlib.Path(tmp_path, "2").touch()
    assert run_on_workers(
        coordinate, str(tmp_path), 1, workers=3, coordinated=True
    ) == [1, None, None]
    assert gone([int((tmp_path / "1").read_text())])


@pytest.mark.slow
def test_a_coordinator_that_fails(tmp_path):
    pathlib.Path(tmp_path, "2").touch()
    with pytest.raises(WorkerError, match="worker 0 raised ZeroDivisionError") as error:
        run_on_workers(coordinate, str(tmp_path), 0, workers=3, coordinated=True)
    assert list(map(str, error.value.outcomes[1:])) == [
        "worker 1 was still running",
        "worker 2 was killed by SIGKILL",
    ]


@pytest.mark.slow
def test_the_deadline_holds_for_everything_together():
    def dies_or_waits():
        if os.environ["COURSE_ATTEMPT"] == "0" and index() == 0:
            die()
        else:
            wait()

    with pytest.raises(WorkerError) as caught:
        run_on_workers(dies_or_waits, timeout=2, restarts=5)
    assert failure(caught.value) == ("deadline", "2")
    assert str(caught.value).startswith(
        "worker 0 and worker 1 had not returned after 2 seconds"
    )


@pytest.mark.slow
def test_the_deadline_counts_from_when_the_workers_have_begun(tmp_path, monkeypatch):
    """A busy machine loads slowly, and that is not the function's fault.

    But it must begin some time.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\ntime.sleep(float(os.environ.get('COURSE_SLOW', 0)))\n"
    )
    slow = {"PYTHONPATH": str(tmp_path), "COURSE_SLOW": 3}
    assert run_on_workers(index, timeout=2.5, env=slow) == [0, 1]
    monkeypatch.setattr(workers, "STARTING", 0.5)
    with pytest.raises(
        WorkerError,
        match=r"^worker 0 and worker 1 could not begin within 0\.5 seconds\n",
    ) as caught:
        run_on_workers(index, env=slow, restarts=3)
    assert failure(caught.value) == ("not begun", "0.5")


@pytest.mark.slow
@linux
def test_calls_that_are_not_taken_in_time(monkeypatch):
    """A server that stands still starts no run."""
    number = run_in_process(number_of_server)
    os.kill(number, signal.SIGSTOP)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(workers, "STARTING", 0.5)
            with pytest.raises(
                RuntimeError,
                match=r"has not answered within 0\.5 seconds: close other programs",
            ):
                run_on_workers(index, workers=64, env={"COURSE_LONG": "x" * 2**16})
    finally:
        os.kill(number, signal.SIGCONT)
    assert run_in_process(number_of_server) == number


@pytest.mark.slow
@linux
def test_a_process_that_cannot_be_forked(tmp_path, monkeypatch):
    full = (
        "import errno, os\n"
        "def fork():\n"
        "    raise OSError(errno.EAGAIN, 'Resource temporarily unavailable')\n"
    )
    (tmp_path / "sitecustomize.py").write_text(full + "os.fork = fork\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        RuntimeError,
        match=r"cannot be started \(Resource temporarily unavailable\).*fewer workers",
    ):
        run_on_workers(index)
    monkeypatch.undo()
    server.close_servers()


@linux
def test_where_no_process_that_starts_workers_lives(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        RuntimeError, match="ended before it started one: see what python -c"
    ):
        run_on_workers(index)
    monkeypatch.undo()
    server.close_servers()


def test_an_error_can_be_sent_on():
    error = WorkerError(
        1,
        [
            Outcome("worker 0", "returned"),
            Outcome("worker 1", "signal", "SIGKILL", log=["started"]),
        ],
    )
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.index, again.outcomes) == (str(error), 1, error.outcomes)
    assert str(error).startswith("worker 1 was killed by SIGKILL\nworker 0 returned\n")


@pytest.mark.slow
def test_a_result_that_cannot_travel():
    with pytest.raises(
        WorkerError, match="raised TypeError: the result, a lock, cannot be sent back"
    ):
        run_in_process(threading.Lock)


@pytest.mark.slow
@linux
def test_a_worker_that_dies_or_stops_while_its_result_travels(monkeypatch):
    """Half of a message has come.

    The death is told, and a stopped worker misses the deadline.
    """

    def half(end):
        import threading

        from course_launcher import child, packing

        def send(pipe, message):
            if len(message) < 2**20:
                return packing.send(pipe, message)
            os.write(pipe, packing.LENGTH.pack(len(message)) + message[:1000])
            os.kill(os.getpid(), end)
            threading.Event().wait()

        child.send = send
        return bytes(2**21)

    with pytest.raises(WorkerError, match="the process was killed by SIGKILL"):
        run_in_process(half, signal.SIGKILL)
    with pytest.raises(
        WorkerError, match="the process had not returned after 3 seconds"
    ):
        run_in_process(half, signal.SIGSTOP, timeout=3)


@linux
def test_what_cannot_be_killed_is_not_waited_for_without_end(monkeypatch):
    class Hanging:  # in the kernel, say
        def children(self, recursive):
            return [self]

        pid = 7

        def kill(self):
            pass

    begin = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "Process", Hanging)
        patch.setattr(
            psutil, "wait_procs", lambda processes, timeout: time.sleep(timeout)
        )
        patch.setattr(run, "KILLED", 0.3)
        assert run.kill_descendants([]) == [7]
    assert time.monotonic() - begin < 30


def test_killed_during_start_up():
    """Kill a worker's interpreter while it loads, before the reader's function runs."""
    code = (
        "import os, signal\n"
        "if os.environ.get('COURSE_ATTEMPT') == '0': "
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "sitecustomize.py").write_text(code)
        with pytest.raises(WorkerError, match="was killed by SIGKILL"):
            run_on_workers(index, env={"PYTHONPATH": folder})
        assert run_on_workers(index, restarts=1, env={"PYTHONPATH": folder}) == [0, 1]


def test_killed_before_it_has_read_its_call():
    """A large call, in a fresh interpreter.

    The run hears of the death at once, and is not held up by a full pipe.
    """
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "sitecustomize.py").write_text(code)
        with pytest.raises(WorkerError, match="was killed by SIGKILL"):
            run_on_workers(len, bytes(2**22), env={"PYTHONPATH": folder})
    assert time.monotonic() - begin < workers.SILENCE


@pytest.mark.slow
def test_no_port_is_left():
    """Each worker listens on its own port, as TensorFlow does.

    After the run nobody does, whatever ended it.
    """

    def listens(then):
        import socket

        port = int(
            json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][index()].split(
                ":"
            )[1]
        )
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        server.listen()
        print("port", port, flush=True)
        then()
        return port

    def last():
        if index():
            die()

    assert all(map(bound, run_on_workers(listens, lambda: None)))
    for then in last, lambda: 1 / 0:
        with pytest.raises(WorkerError) as error:
            run_on_workers(listens, then)
        logs = [line for outcome in error.value.outcomes for line in outcome.log]
        ports = [int(line.split()[1]) for line in logs if line.startswith("port ")]
        assert ports and all(map(bound, ports))


@pytest.mark.slow
@linux
def test_a_forked_run_starts_in_a_fraction_of_what_importing_takes():
    """Medians of runs in turn, in processor time of the workers alone.

    Other processes do not count.
    """

    def seconds():
        import keras  # noqa: F401

        return time.process_time()

    forked, fresh = [], []
    for _ in range(3):
        forked.append(max(run_on_workers(seconds)))
        fresh.append(
            max(
                run_on_workers(
                    seconds, env=lambda index: {"OMP_NUM_THREADS": index + 1}
                )
            )
        )
    assert sorted(forked)[1] < sorted(fresh)[1] / 4


@pytest.mark.parametrize("session", [False, True])
def test_what_the_workers_started_ends_with_them(tmp_path, session):
    if session and sys.platform != "linux":
        pytest.skip("not promised there")

    def with_child(then):
        child = subprocess.Popen(["sleep", "1000"], start_new_session=session)
        (tmp_path / str(child.pid)).touch()
        then()

    for then in (lambda: None), (lambda: os._exit(1)), (lambda: 1 / 0), die:
        for file in tmp_path.iterdir():
            file.unlink()
        with contextlib.suppress(WorkerError):
            run_on_workers(with_child, then)
        children = [int(file.name) for file in tmp_path.iterdir()]
        assert len(children) == 2 and gone(children)


@pytest.mark.skipif(sys.platform != "linux", reason="not promised elsewhere")
def test_a_daemon_ends_too_and_other_runs_do_not(tmp_path):
    """A process that has left its parent, its session and its environment behind."""

    def daemon():
        if os.fork():
            return os.wait()[1]
        os.setsid()
        if not os.fork():
            (tmp_path / str(os.getpid())).touch()
            os.execve("/bin/sleep", ["sleep", "1000"], {})
        os._exit(0)

    def other():
        mine = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        while not list(tmp_path.iterdir()) or not gone(
            [int(file.name) for file in tmp_path.iterdir()]
        ):
            time.sleep(0.01)
        return mine.poll()

    answers = []
    thread = threading.Thread(target=lambda: answers.append(run_in_process(other)))
    thread.start()
    assert run_in_process(daemon) == 0
    thread.join()
    assert answers == [None], "its own was killed by the end of the other run"


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: run_on_workers(index, workers=0),
            "workers=0: must be a whole number from 1 to 64",
        ),
        (
            lambda: run_on_workers(index, workers=1.5),
            "workers=1.5: must be a whole number",
        ),
        (
            lambda: run_on_workers(index, restarts=-1),
            "restarts=-1: must be a whole number, 0 or more",
        ),
        (
            lambda: run_on_workers(index, timeout="soon"),
            "timeout='soon': must be a finite number",
        ),
        (lambda: run_on_workers("index"), "function='index': must be a function"),
        (lambda: run_in_process(None), "function=None: must be a function"),
        (
            lambda: run_on_workers(lambda: LOCK),
            "cannot pickle '_thread.lock' object.*inside the function",
        ),
        (
            lambda: run_on_workers(print, threading.Lock()),
            "function: print or its arguments cannot be sent",
        ),
    ],
)
def test_arguments_that_make_no_sense(call, words):
    with pytest.raises(ValueError, match=words):
        call()


LOCK = threading.Lock()


def test_other_systems(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(
        RuntimeError, match="on Linux and macOS, and this is win32: on Windows use WSL2"
    ):
        run_on_workers(index)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a file system"
)
def test_full_disk(tmp_path, monkeypatch):
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=6", "none", tmp_path],
        capture_output=True,
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        (tmp_path / "nearly-full").write_bytes(bytes(64 * 1024))
        assert run_on_workers(lambda: print("logs need no disk\n" * 5000)) == [
            None,
            None,
        ]
        assert run_on_workers(len, b"x" * 256 * 1024) == [256 * 1024] * 2, (
            "what travels needs no disk"
        )
        for number in range(3):  # a file system can be full of files, too
            (tmp_path / str(number)).touch()
        with pytest.raises(RuntimeError, match="free some space, or set TMPDIR"):
            run_on_workers(index)
        assert sorted(each.name for each in tmp_path.iterdir()) == [
            "0",
            "1",
            "2",
            "nearly-full",
        ]
    finally:
        monkeypatch.undo()
        subprocess.run(["umount", tmp_path], check=True)


SEEN = """
import pathlib, time
import course_utils
from course_launcher import run_on_workers

def speak(folder):
    print("seen at once")
    deadline = time.monotonic() + 300
    while not (folder / "seen").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return (folder / "seen").exists()

print(run_on_workers(speak, pathlib.Path(FOLDER), timeout=400))
"""


def test_a_notebook_shows_what_a_worker_prints_while_it_works(tmp_path):
    """The worker waits until its line has been seen among the outputs of its cell."""
    assert "PYTHONUNBUFFERED" not in os.environ
    cell = nbformat.v4.new_code_cell(SEEN.replace("FOLDER", repr(str(tmp_path))))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )

    def look():
        while not (tmp_path / "ended").exists():
            text = "".join(output.get("text", "") for output in list(cell.outputs))
            if text.count("seen at once") == 2:
                (tmp_path / "seen").touch()
            time.sleep(0.05)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        client.execute()
    finally:
        (tmp_path / "ended").touch()
        looking.join()
    assert cell.outputs[-1]["text"].splitlines()[-1] == "[True, True]"


PROGRAM = """
import os, signal, sys, threading
import course_utils
from course_launcher import run_on_workers

def forever():
    print("pid", os.getppid())  # the run's
    print("pid", os.getpid())
    threading.Event().wait()

if __name__ == "__main__":
    # a shell's background jobs are started with it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_on_workers(forever)
"""


def started(lines):
    """The process numbers of the workers and of their run.

    They say them in these lines.
    """
    pids = []
    for line in lines:
        pids += [int(line.split()[-1])] if "pid" in line else []
        if len(pids) == 4:
            return pids


@pytest.mark.parametrize(
    "how, code",
    [(signal.SIGINT, 1), rare(signal.SIGKILL, -9), rare(signal.SIGTERM, -15)],
)
def test_a_script_that_is_stopped(tmp_path, how, code):
    (tmp_path / "script.py").write_text(PROGRAM)
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command, pipes = (
        [sys.executable, tmp_path / "script.py"],
        {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
    )
    with subprocess.Popen(command, env=env, text=True, **pipes) as script:
        pids = started(script.stdout)
        script.send_signal(how)
        said = script.communicate(timeout=300)[1]
    assert (script.returncode in (code, -how)) and gone(pids)
    assert ("KeyboardInterrupt" in said) == (how == signal.SIGINT)
    deadline = time.monotonic() + 30
    while (
        left := glob.glob(str(tmp_path / "course-workers-*"))
    ) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


@pytest.mark.parametrize("how", [rare("interrupt"), "kill"])
def test_a_notebook_that_is_stopped(how):
    manager = jupyter_client.KernelManager(kernel_name="python3")
    manager.start_kernel(
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=300)
        client.execute(PROGRAM)
        messages = (client.get_iopub_msg(timeout=300) for _ in range(1000))
        texts = (
            each["content"]["text"] for each in messages if each["msg_type"] == "stream"
        )
        pids = started(line for text in texts for line in text.splitlines())
        if how == "interrupt":
            manager.interrupt_kernel()
            reply = client.get_shell_msg(timeout=300)
            while reply["msg_type"] != "execute_reply":
                reply = client.get_shell_msg(timeout=300)
            assert reply["content"]["ename"] == "KeyboardInterrupt" and gone(
                sorted(pids, key=pids.count)[:2]
            )
        else:
            os.kill(manager.provisioner.pid, signal.SIGKILL)
            assert gone(pids)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
