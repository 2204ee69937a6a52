"""What a cluster needs besides processes: TF_CONFIG, built and diagnosed."""

import json
import os
import pathlib
import socket
import subprocess

import pytest

from course_utils.cluster import build_tf_config, check_tf_config, tf_config

TWO = ["localhost:20111", "localhost:20112"]
CLUSTER = pathlib.Path(__file__).resolve().parent.parent / "cluster"


def test_build():
    assert json.loads(build_tf_config(TWO, 1)) == {"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 1}}
    assert json.loads(build_tf_config(("node-1.example:2222", "[fe80::1]:2222"), 0))["task"]["index"] == 0


@pytest.mark.parametrize(
    "workers, index, words",
    [
        ([], 0, r"workers=\[\]: must be a list of addresses"),
        ("localhost:1", 0, "workers='localhost:1': must be a list"),
        (["localhost"], 0, "'localhost' is no address; it must be 'host:port'"),
        (["localhost:0"], 0, "no address"),
        (["localhost:65536"], 0, "no address"),
        (["grpc://a:1"], 0, "no address"),
        ([7], 0, "workers: 7 is no address"),
        (TWO, 2, r"index=2: must be a whole number from 0 to 1 \(the last of the workers\)"),
        (TWO, "0", "index='0': must be a whole number"),
    ],
)
def test_build_refuses(workers, index, words):
    with pytest.raises(ValueError, match=words):
        build_tf_config(workers, index)


def changed(**parts):
    return json.dumps(json.loads(build_tf_config(TWO, 0)) | parts)


def test_nothing_to_find(monkeypatch):
    monkeypatch.setattr(tf_config, "_free", lambda port: True)
    assert check_tf_config(build_tf_config(TWO, 0)) == []
    cluster = {"chief": ["10.1.1.2:2001"], "worker": ["[fe80::1]:2002"], "ps": ["192.168.7.1:2001", "10.1.1.1:2001"]}
    assert check_tf_config(json.dumps({"cluster": cluster, "task": {"type": "ps", "index": 1}})) == []


@pytest.mark.parametrize(
    "cluster, task",
    [
        ({"worker": ["10.1.1.1:1", "10.1.1.2:1"]}, {"type": "worker", "index": "0"}),
        ({"worker": {"1": "10.1.1.1:1"}}, {"type": "worker", "index": 1}),
        ({"chief": ["10.1.1.1:1"], "worker": ["10.1.1.2:1"]}, {"type": "evaluator", "index": 0}),
    ],
)
def test_what_tensorflow_accepts_is_no_finding(monkeypatch, cluster, task):
    import tensorflow as tf

    text = json.dumps({"cluster": cluster, "task": task})
    monkeypatch.setattr(tf_config, "_free", lambda port: True)
    monkeypatch.setenv("TF_CONFIG", text)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert resolver.task_id == int(task["index"]) and resolver.cluster_spec().jobs == sorted(cluster)
    assert check_tf_config(text) == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("{'cluster': 1}", "it is not JSON (line 1, column 2)"),
        (None, "it is not JSON: write it with json.dumps"),
        ("[1]", "'cluster' is missing"),
        ('"text"', "'task' is missing"),
        (changed(cluster=None), "'cluster' is missing: it must map each role"),
        (changed(cluster={}), "'cluster' is missing"),
        (changed(task=None), "'task' is missing: it must say which process"),
        (changed(task={"type": "worker"}), "task['index'] is missing"),
        (changed(task={"index": 0}), "task['type'] is missing"),
        (
            changed(task={"type": "chief", "index": 0}),
            "the task's type is 'chief', and 'cluster' has no such role: worker",
        ),
        (changed(task={"type": "worker", "index": 2}), "the task's index is 2, and must be a whole number from 0 to 1"),
        (changed(task={"type": "worker", "index": "zero"}), "the task's index is 'zero'"),
        (changed(cluster={"worker": {"1": "10.1.1.1:1"}}), "the task's index is 0, and must be 1"),
        (changed(cluster={"worker": {"one": "10.1.1.1:1"}}), "cluster['worker'] must be a list of addresses"),
        (changed(cluster={"master": TWO}), "worker, ps, evaluator (an old name of 'chief')"),
        (
            changed(cluster={"worker": ["localhost:1", "10.1.1.1:1"]}),
            "worker 0's host 'localhost' is on each machine that machine itself: where there are several, write",
        ),
        (changed(task={"type": "worker", "index": True}), "the task's index is True"),
        (changed(task={"type": ["worker"], "index": 0}), "the task's type is ['worker']"),
        (changed(cluster={"workers": TWO}), "'cluster' knows no role 'workers': chief, worker, ps, evaluator"),
        (changed(cluster={"worker": TWO[0]}), "cluster['worker'] must be a list of addresses"),
        (changed(cluster={"worker": []}), "cluster['worker'] must be a list of addresses"),
        (changed(cluster={"worker": ["localhost"]}), "worker 0's address 'localhost' is not 'host:port'"),
        (changed(cluster={"worker": [5]}), "worker 0's address 5 is not 'host:port'"),
        (changed(cluster={"worker": TWO[:1] * 2}), "worker 0 and worker 1 have the same address, localhost:20111"),
        (
            changed(cluster={"worker": ["localhost:20111", "127.0.0.1:20111"]}),
            "worker 0 and worker 1 are on one machine with one port, 20111",
        ),
        (changed(cluster={"worker": ["10.1.1.1:1", "10.1.1.1:1"]}), "have the same address"),
        (
            changed(cluster={"worker": ["no-such-host.invalid:1"]}),
            "worker 0's host 'no-such-host.invalid' is not found",
        ),
        (changed(cluster={"worker": ["8.8.8.8:2222"]}), "worker 0's host '8.8.8.8' is a public address"),
        (changed(cluster={"worker": ["[2001:4860:4860::8888]:1"]}), "is a public address"),
    ],
)
def test_findings(text, words):
    found = check_tf_config(text)
    assert any(words in each for each in found), found
    assert all(isinstance(each, str) for each in found)


def test_a_port_that_is_taken():
    for host in "127.0.0.1", "":
        with socket.create_server((host, 0)) as server:
            port = server.getsockname()[1]
            text = build_tf_config([f"localhost:{port}", "localhost:1"], 0)
            assert check_tf_config(text) == [
                f"port {port} of this machine is taken: end the program that has it, or choose another port"
            ]
            other = build_tf_config([f"localhost:{port}", f"localhost:{free_port()}"], 1)
            assert check_tf_config(other) == [], "another worker's port may be in use: it has started already"
        assert check_tf_config(text) == []


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def test_a_look_up_that_takes_too_long(monkeypatch):
    import threading

    release = threading.Event()
    monkeypatch.setattr(tf_config, "LOOK_UP", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: release.wait(10) and [])
    found = check_tf_config(changed(cluster={"worker": ["slow.example:1"]}))
    release.set()
    assert found[0].startswith("worker 0's host 'slow.example' is not found")


@pytest.mark.skipif(os.name == "nt", reason="bash, and stand-ins that are POSIX scripts")
def test_two_machines_with_users_ipv6_spaces_and_quotes(tmp_path):
    """A stand-in for ssh writes down where it is to go, and runs the command here; one for Python, what it gets."""
    course, run = tmp_path / "it's a course", tmp_path / 'the "run"'
    python = course / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    told = tmp_path / "told"
    told.mkdir()
    python.write_text(f'#!/bin/bash\nprintf "%s\\n" "$TF_CONFIG" "$RUN_FOLDER" "$@" > {told}/$$\n')
    (tmp_path / "ssh").write_text(f'#!/bin/bash\nshift 3\necho "$1" >> {tmp_path}/hosts\nexec bash -c "$2"\n')
    for file in python, tmp_path / "ssh":
        file.chmod(0o755)
    text = (CLUSTER / "two_machines.sh").read_text(encoding="utf-8")
    quoted = str(run).replace('"', '\\"')
    for old, new in {"CHANGE-ME-1 CHANGE-ME-2": "me@10.0.0.1 fd00::2", "/CHANGE-ME/course": str(course),
                     "/CHANGE-ME/run": quoted}.items():  # fmt: skip
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "two_machines.sh").write_text(text)
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", tmp_path / "two_machines.sh", "--data", "two words.npz", "--epochs", "3"]
    assert subprocess.run(command, env=env, timeout=300).returncode == 0
    assert sorted((tmp_path / "hosts").read_text().split()) == ["fd00::2", "me@10.0.0.1"]
    lines = [file.read_text().splitlines() for file in told.iterdir()]
    configs = sorted((json.loads(line[0]) for line in lines), key=lambda config: config["task"]["index"])
    assert [config["task"]["index"] for config in configs] == [0, 1]
    assert configs[0]["cluster"]["worker"] == ["10.0.0.1:20111", "[fd00::2]:20111"]
    expected = [str(run), f"{course}/cluster/train.py", "--data", "two words.npz", "--epochs", "3"]
    assert [line[1:] for line in lines] == [expected] * 2
    for code, again in (2, 0), (1, 4):  # a sentence says what to change; anything else is tried again
        python.write_text(f"#!/bin/bash\nexit {code}\n")
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == code and done.stdout.count("failed: all start again") == again


SRUN = """#!/bin/bash
echo "srun has ${SRUN_CPUS_PER_TASK:-no} CPUs a task"
[ -z "$CHECKPOINT" ] || { mkdir -p "$RUN_FOLDER/checkpoints"; touch "$RUN_FOLDER/checkpoints/epoch-$CHECKPOINT.npz"; }
exit $CODE
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) echo "NodeName=n9"; echo "   Gres=gpu:a100:3(S:0-1),gpu:t4:1"; echo "   GresUsed=gpu:9" ;;
    requeue) echo "requeued $2" ;;
esac
"""


@pytest.fixture
def batch_script(tmp_path):
    """train.sbatch with its lines filled in; run with stand-ins for srun and scontrol: (exit code, what it says)."""
    text = (CLUSTER / "train.sbatch").read_text(encoding="utf-8")
    for old, new in {"/CHANGE-ME/course": tmp_path / "course", "/CHANGE-ME/run": tmp_path / "run"}.items():
        assert text.count(old) == 1
        text = text.replace(old, str(new))
    python = tmp_path / "course" / ".venv" / "bin" / "python"
    (tmp_path / "course" / "cluster").mkdir(parents=True)
    python.parent.mkdir(parents=True)
    for path, content in {"train.sbatch": text, "srun": SRUN, "scontrol": SCONTROL, python: "",
                          "course/cluster/train.py": ""}.items():  # fmt: skip
        (tmp_path / path).write_text(content, encoding="utf-8")
        (tmp_path / path).chmod(0o755)

    def run(code, **variables):
        env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        env |= {"CODE": str(code), "CHECKPOINT": "", "SLURMD_NODENAME": "n9"} | variables
        done = subprocess.run(["bash", tmp_path / "train.sbatch"], env=env, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return run


bash = pytest.mark.skipif(os.name == "nt", reason="bash, and stand-ins that are POSIX scripts")


@bash
def test_what_is_requeued(batch_script):
    """Not what would fail again; what was killed, four times without progress."""
    code, said = batch_script(2)
    assert code == 2 and "requeued" not in said and "change what the sentence above says" in said
    code, said = batch_script(1)
    assert code == 1 and "requeued" not in said and "a Python error within a minute of the first start" in said
    for attempt in range(4):
        code, said = batch_script(137)
        assert code == 137 and ("requeued 7" in said) == (attempt < 3)
    code, said = batch_script(1, CHECKPOINT="000001-00000000")
    assert code == 1 and "requeued 7" in said, "another worker's death looks the same, and there is something to keep"
    code, said = batch_script(75)
    assert code == 75 and "requeued 7" in said
    assert batch_script(0)[0] == 0


@bash
def test_cpus_and_gpus_of_a_job(batch_script):
    """srun does not take --cpus-per-task from the job; and GPUs that the job has not asked for are named."""
    _, said = batch_script(0, SLURM_CPUS_PER_TASK="6", SLURM_GPUS_ON_NODE="1")
    assert "srun has 6 CPUs a task" in said
    assert "train.sbatch: this node has 4 GPUs, and the job uses 1 of them (--gres=gpu:4: all)" in said
    _, said = batch_script(0, SLURM_GPUS_ON_NODE="4")
    assert "srun has no CPUs a task" in said and "GPUs" not in said
