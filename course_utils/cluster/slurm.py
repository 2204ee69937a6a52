"""From the words in which Slurm tells a task where its job runs, the value of TF_CONFIG."""

import itertools
import re

from course_utils.arguments import whole_number
from course_utils.cluster.tf_config import build_tf_config

FIRST_PORT, PORTS = 12000, 20000
"""Ports are drawn from here up to 32,000: above, Linux takes those of its own connections."""


def slurm_tf_config(variables: dict, port: int | None = None) -> str:
    """The value of TF_CONFIG for one task of a Slurm job step: every task is a worker, task 0 is the chief.

    variables: such as `os.environ` in a program that srun has started. Read are SLURM_STEP_NODELIST ("n[9-10]"),
        SLURM_STEP_TASKS_PER_NODE ("2(x2)"), SLURM_PROCID, SLURM_JOB_ID and, if there, SLURMD_NODENAME.
    port: of the first task on each node, the node's other tasks have the ports after it. By default it is drawn from
        the job's number, so that two jobs on one node keep out of each other's way.

    Raises ValueError for a variable that is missing or cannot be read, and when this task does not run where the list
    says, since then nobody would find it (`srun --distribution=block` puts the tasks in the order of the list).
    """
    nodes = _nodes(_read(variables, "SLURM_STEP_NODELIST"))
    text = _read(variables, "SLURM_STEP_TASKS_PER_NODE")
    runs = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    counts = [int(run[1]) for run in runs if run for _ in range(int(run[2] or 1))]
    if not all(runs) or len(counts) != len(nodes):
        raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={text!r}: must be like '2(x3),1', for {len(nodes)} nodes")
    if port is None:
        port = FIRST_PORT + int(_read(variables, "SLURM_JOB_ID")) * max(counts) % (PORTS - max(counts))
    port = whole_number("port", port, 1, 65536 - max(counts))
    places = [(node, port + k) for node, count in zip(nodes, counts, strict=True) for k in range(count)]
    index = whole_number("SLURM_PROCID", int(_read(variables, "SLURM_PROCID")), 0, len(places) - 1, "the last task")
    here = variables.get("SLURMD_NODENAME", places[index][0])
    if here != places[index][0]:
        raise ValueError(
            f"SLURMD_NODENAME={here!r}: by the list {_read(variables, 'SLURM_STEP_NODELIST')}, task {index} is on "
            f"{places[index][0]}: start the tasks with srun --distribution=block"
        )
    return build_tf_config([f"{node}:{port}" for node, port in places], index)


def _read(variables, name):
    if not variables.get(name):
        raise ValueError(f"variables: {name} is missing: start the program with srun, inside a job")
    return variables[name]


def _nodes(text):
    """The names in a list of nodes such as "a,n[08-10,12],rack[1-2]n[1-2]", in its order."""
    if set("[] ") & set(re.sub(r"\[\d+(-\d+)?(,\d+(-\d+)?)*\]", "", text)):
        raise ValueError(f"SLURM_STEP_NODELIST={text!r}: cannot be read; it must be like 'a,n[08-10,12]'")
    nodes = []
    for part in re.findall(r"(?:[^,\[]|\[.*?\])+", text):
        pieces = re.split(r"\[(.*?)\]", part)  # name, range, name, range, …, name
        choices = [_numbers(piece) if k % 2 else [piece] for k, piece in enumerate(pieces)]
        nodes += map("".join, itertools.product(*choices))
    return nodes


def _numbers(ranges):
    """The numbers in "08-10,12", with their leading zeros."""
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield f"{number:0{len(first)}}"
