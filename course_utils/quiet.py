"""No noise at the start: TensorFlow's log while it loads, Keras' false alarms."""

import contextlib
import importlib.machinery
import os
import subprocess
import sys
import warnings

from course_utils.devices import tpu_in_machine


def prepare() -> None:
    """Keep TensorFlow's start-up log and Keras' false alarms out of the notebook, and
    leave GPUs to share.

    What TensorFlow 2.21 logs while it is loaded ignores `TF_CPP_MIN_LOG_LEVEL`: so
    stderr is set aside meanwhile, and shown after all if the import fails.
    `TPU_SKIP_MDS_QUERY` spares libtpu minutes of waiting for Google's servers.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # or the next process finds no memory left
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not tpu_in_machine():
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # Keras 3.15 says this of every dataset, wrongly.
    warnings.filterwarnings(
        "ignore", message="`shuffle=True` was passed, but will be ignored"
    )
    # Keras on JAX 0.12, of its counters
    warnings.filterwarnings("ignore", message="Explicitly requested dtype int64")
    if not any(isinstance(finder, _QuietImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietImport())


class _QuietImport:
    """Finds `tensorflow` the ordinary way, and has it loaded with stderr set aside."""

    def find_spec(self, name, path=None, target=None):
        spec = (
            importlib.machinery.PathFinder.find_spec(name, path)
            if name == "tensorflow"
            else None
        )
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def quiet_load(module):
                with _stderr_set_aside():
                    load(module)
                # in a notebook TensorFlow starts it at INFO, on stdout
                module.get_logger().setLevel("ERROR")

            spec.loader.exec_module = quiet_load
        return spec


_STDERR_BUFFER = """
import os, sys
captured = sys.stdin.buffer.read()
if not captured.endswith(b"loaded"):
    to = 2 if captured.endswith(b"failed") else int(sys.argv[1])
    os.write(to, captured.removesuffix(b"failed"))
"""


@contextlib.contextmanager
def _stderr_set_aside():
    """Let another process keep what is written to stderr, and show it after an
    exception, or a crash of this one.
    """
    terminal = 2
    # no stderr, or one that is no file
    with contextlib.suppress(AttributeError, OSError, ValueError):
        terminal = sys.stderr.fileno()
    keeper = subprocess.Popen(
        [sys.executable, "-ISc", _STDERR_BUFFER, str(terminal)],
        stdin=subprocess.PIPE,
        pass_fds=[terminal] if os.name == "posix" else [],
    )
    pipe = keeper.stdin
    assert pipe is not None  # it was asked for
    stderr = os.dup(2)
    os.dup2(pipe.fileno(), 2)
    status = b"failed"
    try:
        yield
        status = b"loaded"
    finally:
        os.write(2, status)
        os.dup2(stderr, 2)
        os.close(stderr)
        pipe.close()
        # should a process started meanwhile hold the pipe open
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(10)
