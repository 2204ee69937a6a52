"""Run the files of cluster/ on a real Slurm of two nodes, and the ssh recipe.

The program is train.py. `make cluster` runs this in namespaces of its own (network,
mounts, host name, processes), in which it is root: each node's slurmd has a network, as
two machines have, and whatever happens here ends with them. Slurm and munge are
Debian's. The nodes are called n9 and n10, because as text these sort the other way
round.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import psutil
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NODES = {"n9": "10.77.0.9", "n10": "10.77.0.10"}
CONTROLLER = "10.77.0.1"
CONFIGURATION = """
ClusterName=course
SlurmctldHost=controller({controller})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
{nodes}
PartitionName=real Nodes=n[9-10] Default=YES State=UP
"""


def say(*command, **more):
    """Run a command to its end: what it printed, or an error with that in it."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def wait_for(what, condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return found


def on_node(node):
    return ["nsenter", f"--net=/run/netns/{node}"]


@pytest.fixture(scope="module")
def network():
    """A bridge, and a network namespace for each node, with a cable between."""
    assert os.environ.get("COURSE_NAMESPACES") == "own", "start this with: make cluster"
    place = pathlib.Path("/run/netns")
    made = not place.exists()  # where nobody has had a named network namespace yet
    place.mkdir(exist_ok=True)
    say("mount", "-t", "tmpfs", "tmpfs", str(place))
    say("hostname", "controller")
    say(*["ip", "link", "set", "lo", "up"])
    say(*["ip", "link", "add", "course", "type", "bridge"])
    say(*f"ip addr add {CONTROLLER}/24 dev course".split())
    say(*["ip", "link", "set", "course", "up"])
    for node, address in NODES.items():
        say("ip", "netns", "add", node)
        say(*f"ip link add to-{node} type veth peer name eth0 netns {node}".split())
        say(*f"ip link set to-{node} master course up".split())
        say(*f"ip -n {node} addr add {address}/24 dev eth0".split())
        for device in "eth0", "lo":
            say("ip", "-n", node, "link", "set", device, "up")
    yield
    say("umount", "--lazy", str(place))
    if made:
        place.rmdir()


@pytest.fixture(scope="module")
def course(network, tmp_path_factory):
    """A clone as a reader has it on the cluster's file system."""
    folder = tmp_path_factory.mktemp("course")
    hosts = folder / "hosts"
    names = {"localhost": "127.0.0.1", "controller": CONTROLLER} | NODES
    hosts.write_text("".join(f"{address} {name}\n" for name, address in names.items()))
    say("mount", "--bind", str(hosts), "/etc/hosts")
    (folder / "cluster").symlink_to(ROOT / "cluster")
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def cluster(course, tmp_path_factory):
    """Slurm, running; ended afterwards, with nothing left of it."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in "munge", "state", *NODES:
        (folder / name).mkdir()
    nodes = "\n".join(
        f"NodeName={node} NodeAddr={address} CPUs=4" for node, address in NODES.items()
    )
    values = {"folder": folder, "controller": CONTROLLER, "nodes": nodes}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    paths = {
        "key-file": "key",
        "socket": "socket",
        "pid-file": "pid",
        "log-file": "log",
        "seed-file": "seed",
    }
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    own = [f"--{option}={folder / 'munge' / name}" for option, name in paths.items()]
    commands = {
        "munged": ["munged", "--foreground", "--force", *own],
        "slurmctld": ["slurmctld", "-D"],
    }
    # a machine's name leads to its own address, as gloo expects
    named = "hostname {0} && exec slurmd -D -N {0}"
    commands |= {
        node: [*on_node(node), "unshare", "--uts", "sh", "-c", named.format(node)]
        for node in NODES
    }
    running = []
    try:
        for name, command in commands.items():
            with open(folder / f"{name}.log", "w") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log))
            if name == "munged":
                wait_for("munged", (folder / "munge" / "socket").exists, 20)
        wait_for(
            "two idle nodes",
            lambda: "idle 2" in subprocess.getoutput("sinfo -h -o '%T %D'"),
            60,
        )
        yield folder
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(20)
    wait_for("the end of all processes", lambda: not _alive(), 20)


def _alive():
    """What still runs in this namespace besides this process.

    The dead wait for process 1, which is this one.
    """
    mine = psutil.Process()
    return [
        each
        for each in psutil.process_iter()
        if each != mine and each.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture
def submit(cluster, course, tmp_path, monkeypatch):
    """Submit the course's own sbatch file, with its three lines changed.

    Returns the job's last state, and what it printed.
    """
    text = (ROOT / "cluster" / "train.sbatch").read_text()
    changes = {
        "=CHANGE-ME": "=real",
        "/CHANGE-ME/course": str(course),
        "/CHANGE-ME/run": str(tmp_path / "run"),
    }
    for old, new in changes.items():
        assert len(re.findall(f"{old}(?!\\S)", text)) == 1
        text = re.sub(f"{old}(?!\\S)", new, text)

    def run(
        tasks=1,
        epochs=2,
        disturb=lambda job: None,
        path=None,
        more=("--allow-cpu",),
        program=None,
    ):
        own = (
            text
            if program is None
            else text.replace('"$COURSE/cluster/train.py"', str(program))
        )
        (tmp_path / "train.sbatch").write_text(own)
        monkeypatch.setenv("PATH", path or os.environ["PATH"])
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        given = [
            "sbatch",
            "--parsable",
            f"--ntasks-per-node={tasks}",
            f"--output={tmp_path}/out.txt",
        ]
        options = ["--epochs", str(epochs), "--batch-size-per-replica", "32", *more]
        job = say(*given, str(tmp_path / "train.sbatch"), *options).strip()
        disturb(job)

        def ended():
            state = dict(
                each.split("=", 1)
                for each in say("scontrol", "show", "job", job).split()
                if "=" in each
            )
            return (
                state
                if state["JobState"]
                in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
                else None
            )

        state, out = (
            wait_for("the end of the job", ended, 600),
            (tmp_path / "out.txt").read_text(),
        )
        (tmp_path / "out.txt").unlink()
        return state, out

    run.log = tmp_path / "run" / "log.csv"
    return run


def weights_of(out, tasks):
    """The one digest of the weights with which all tasks say they ended."""
    found = re.findall(
        r"worker (\d+): epochs \d+ to \d+; weights ([0-9a-f]{16})\n", out
    )
    assert sorted(int(worker) for worker, _ in found) == list(range(tasks)), out
    assert len({digest for _, digest in found}) == 1, out
    return found[0][1]


def test_the_file_as_it_is_refuses_to_run(cluster, tmp_path):
    file = str(ROOT / "cluster" / "train.sbatch")
    refused = subprocess.run(
        ["sbatch", file], capture_output=True, text=True, timeout=60
    )
    assert (
        refused.returncode
        and "invalid partition specified: CHANGE-ME" in refused.stderr
    )
    state = subprocess.run(
        ["sbatch", "--wait", "--partition=real", f"--output={tmp_path}/out.txt", file],
        capture_output=True,
        timeout=60,
    )
    assert state.returncode == 2
    assert (
        "COURSE and RUN_FOLDER still say CHANGE-ME"
        in (tmp_path / "out.txt").read_text()
    )


@pytest.mark.parametrize("tasks", [1, 2])
def test_equal_weights_on_all_tasks(submit, tasks):
    state, out = submit(tasks)
    assert state["JobState"] == "COMPLETED" and state["Restarts"] == "0", out
    weights_of(out, 2 * tasks)


def test_nodes_with_gpus_that_tensorflow_does_not_use(submit, tmp_path):
    """A stand-in for nvidia-smi says that there are GPUs.

    The tasks refuse to train on CPUs, and the job ends.
    """
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    state, out = submit(path=f"{tmp_path}:{os.environ['PATH']}", more=())
    assert (
        state["JobState"] == "FAILED" and "TensorFlow does not use the GPU here" in out
    )


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_task_is_killed_and_the_job_comes_back(submit, backend):
    epochs, more = 12, ("--allow-cpu", "--backend", backend)
    _, out = submit(epochs=epochs, more=more)
    undisturbed = weights_of(out, 2)

    def kill(job):
        wait_for(
            "epoch 3",
            lambda: (
                submit.log.exists() and len(submit.log.read_text().splitlines()) > 3
            ),
        )
        for each in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error):
                if (
                    "train.py" in str(each.info["cmdline"])
                    and each.environ().get("SLURM_PROCID") == "1"
                ):
                    each.kill()

    state, out = submit(epochs=epochs, disturb=kill, more=more)
    assert state["JobState"] == "COMPLETED" and state["Restarts"] == "1", out
    assert "back to the queue" in out
    assert out.count(", from the start") == 1, "the second attempt began anew"
    assert weights_of(out, 2) == undisturbed
    if backend == "tensorflow":
        for line in lines_of_the_notebook():
            assert re.search(line, out), line


def lines_of_the_notebook():
    """What notebook 03 shows of such a job's output.

    These are patterns, since numbers and digests differ.
    """
    cells = json.loads(
        (ROOT / "notebooks" / "03_multi_worker_strategy.ipynb").read_text(
            encoding="utf-8"
        )
    )["cells"]
    (text,) = ("".join(cell["source"]) for cell in cells if cell["id"] == "slurm-words")
    shown = text.split("$ cat course-2.txt\n")[1].split("```")[0].splitlines()
    assert len(shown) == 8
    for line in shown:
        line = re.sub(r"[0-9a-f]{16}", "DIGEST", line)
        yield re.sub(r"\d+", "[0-9]+", re.escape(line)).replace(
            "DIGEST", "[0-9a-f]{16}"
        )


@pytest.mark.parametrize("who", ["all", "task 1"])
def test_a_bug_does_not_come_back(submit, course, who):
    """A Python error in the first minute, on both tasks or on one.

    The job fails, and is not requeued.
    """
    raises = (
        "    raise ValueError('a bug')\n"
        if who == "all"
        else (
            "    if os.environ['SLURM_PROCID'] == '1':\n"
            "        raise ValueError('a bug')\n"
        )
    )
    text = (ROOT / "cluster" / "train.py").read_text(encoding="utf-8")
    (course / "broken.py").write_text(
        text.replace("    loss = keras.losses", raises + "    loss = keras.losses", 1)
    )
    state, out = submit(program=course / "broken.py")
    assert state["JobState"] == "FAILED" and state["Restarts"] == "0", out
    assert (
        "ValueError: a bug" in out
        and "a Python error within a minute of the first start" in out
    )


def test_a_refusal_does_not_come_back(submit):
    state, out = submit(more=("--allow-cpu", "--patience", "0"))
    assert state["JobState"] == "FAILED" and state["Restarts"] == "0", out
    assert (
        "argument --patience: 0 is not a whole number, 1 or more" in out
        and "change what the sentence" in out
    )


def test_before_the_time_is_up_all_tasks_save_and_the_job_comes_back(submit):
    """Slurm sends this 120 seconds before its limit; here it is sent at once.

    It goes to the batch script.
    """
    epochs = 30
    _, out = submit(epochs=epochs)
    undisturbed = weights_of(out, 2)

    def signal(job):
        wait_for(
            "epoch 3",
            lambda: (
                submit.log.exists() and len(submit.log.read_text().splitlines()) > 3
            ),
        )
        say("scancel", "--signal=USR1", "--batch", job)

    state, out = submit(epochs=epochs, disturb=signal)
    assert state["JobState"] == "COMPLETED" and state["Restarts"] == "1", out
    assert (
        "everything is saved: started again, it goes on" in out
        and "ended with exit code 75: back" in out
    )
    assert weights_of(out, 2) == undisturbed


def test_two_machines_by_ssh(course, tmp_path):
    """The script for two machines.

    A stand-in for ssh enters a node's network.
    """
    script = ROOT / "cluster" / "two_machines.sh"
    refused = subprocess.run(
        ["bash", script], capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 2 and "still say CHANGE-ME" in refused.stderr
    text = script.read_text()
    for old, new in {
        "CHANGE-ME-1 CHANGE-ME-2": " ".join(NODES),
        "/CHANGE-ME/course": course,
        "/CHANGE-ME/run": tmp_path,
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, str(new))
    (tmp_path / "two_machines.sh").write_text(text)
    ssh = tmp_path / "ssh"
    ssh.write_text(
        '#!/bin/bash\nshift 3\nexec nsenter --net=/run/netns/$1 bash -c "$2"\n'
    )
    ssh.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [
        "bash",
        str(tmp_path / "two_machines.sh"),
        "--epochs",
        "12",
        "--allow-cpu",
    ]
    first = say(*command, env=env)
    assert "failed" not in first
    undisturbed = weights_of(first, 2)

    shutil.rmtree(
        tmp_path / "checkpoints"
    )  # and all else, which nothing would go on from
    log = tmp_path / "log.csv"
    for left in log, *tmp_path.glob("*.weights.h5"), tmp_path / "model.keras":
        left.unlink()
    with open(tmp_path / "out.txt", "w") as out:
        running = subprocess.Popen(command, env=env, stdout=out)
    wait_for("epoch 3", lambda: log.exists() and len(log.read_text().splitlines()) > 3)
    for each in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if "train.py" in str(
                each.info["cmdline"]
            ) and '"index": 1' in each.environ().get("TF_CONFIG", ""):
                each.kill()
    assert running.wait(300) == 0
    out = (tmp_path / "out.txt").read_text()
    assert "attempt 0 failed: all start again" in out
    assert weights_of(out, 2) == undisturbed
