"""Functions of the notebook on worker processes of this machine, and what a cluster of
machines needs besides.

TensorFlow's own runtime does all the distribution; here processes are started, listened
to and stopped.

Security: a TensorFlow worker listens on every network interface, whatever address
TF_CONFIG names, and obeys whoever connects: no password, no encryption.
`run_on_workers` keeps the exposure small: ports are chosen at random, no worker
outlives its run. On a shared or public network that is not enough: use a firewall, or
do not run it there.
"""

# ruff: noqa: F401
import pathlib
import sysconfig

from course_launcher import drawings
from course_launcher.network import Network, silence_network
from course_launcher.outcomes import Outcome, WorkerError
from course_launcher.tf_config import build_tf_config, check_tf_config
from course_launcher.workers import (
    free_addresses,
    prepare,
    run_in_process,
    run_on_workers,
)
from course_utils.language import translated as _


def program(name: str) -> pathlib.Path:
    """Return where a file of the folder cluster/ is, such as "train.py": in the clone,
    or where pip has put it.
    """
    installed = pathlib.Path(
        sysconfig.get_path("data"), "share", "distributed-training-course"
    )
    cluster = pathlib.Path(__file__).parents[1] / "cluster"
    for folder in cluster, cluster / "kubernetes", installed:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        _(
            "{name}: not in a clone, nor in {installed}: install the course again",
            name=name,
            installed=installed,
        )
    )
