"""The scripts of cluster/, with stand-ins for ssh, srun and scontrol.

tests/integration/real_slurm.py has the real ones.
"""

import json
import os
import pathlib
import subprocess

import pytest

CLUSTER = pathlib.Path(__file__).resolve().parents[2] / "cluster"
bash = pytest.mark.skipif(
    os.name == "nt", reason="bash, and stand-ins that are POSIX scripts"
)


@bash
def test_two_machines_with_users_ipv6_spaces_and_quotes(tmp_path):
    """Stand-ins for ssh and for Python.

    The one for ssh writes down where it is to go, and runs the command here; the one
    for Python writes down what it gets.
    """
    course, run = tmp_path / "it's a course", tmp_path / 'the "run"'
    python = course / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    told = tmp_path / "told"
    told.mkdir()
    python.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$TF_CONFIG" "$RUN_FOLDER" "$@" > {told}/$$\n'
    )
    (tmp_path / "ssh").write_text(
        f'#!/bin/bash\nshift 3\necho "$1" >> {tmp_path}/hosts\nexec bash -c "$2"\n'
    )
    for file in python, tmp_path / "ssh":
        file.chmod(0o755)
    text = (CLUSTER / "two_machines.sh").read_text(encoding="utf-8")
    quoted = str(run).replace('"', '\\"')
    for old, new in {
        "CHANGE-ME-1 CHANGE-ME-2": "me@10.0.0.1 fd00::2",
        "/CHANGE-ME/course": str(course),
        "/CHANGE-ME/run": quoted,
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "two_machines.sh").write_text(text)
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [
        "bash",
        tmp_path / "two_machines.sh",
        "--data",
        "two words.npz",
        "--epochs",
        "3",
    ]
    assert subprocess.run(command, env=env, timeout=300).returncode == 0
    assert sorted((tmp_path / "hosts").read_text().split()) == [
        "fd00::2",
        "me@10.0.0.1",
    ]
    lines = [file.read_text().splitlines() for file in told.iterdir()]
    configs = sorted(
        (json.loads(line[0]) for line in lines),
        key=lambda config: config["task"]["index"],
    )
    assert [config["task"]["index"] for config in configs] == [0, 1]
    assert configs[0]["cluster"]["worker"] == ["10.0.0.1:20111", "[fd00::2]:20111"]
    expected = [
        str(run),
        f"{course}/cluster/train.py",
        "--data",
        "two words.npz",
        "--epochs",
        "3",
    ]
    assert [line[1:] for line in lines] == [expected] * 2
    (tmp_path / "ssh").write_text("#!/bin/bash\nexit 255\n")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert (
        done.returncode == 2
        and "ssh does not reach a machine, and has said why" in done.stderr
    )
    (tmp_path / "ssh").write_text('#!/bin/bash\nshift 3\nexec bash -c "$2"\n')
    for code, again in (
        (2, 0),
        (1, 4),
    ):  # a sentence says what to change; anything else is tried again
        python.write_text(f"#!/bin/bash\nexit {code}\n")
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=300
        )
        assert (
            done.returncode == code
            and done.stdout.count("failed: all start again") == again
        )


SRUN = """#!/bin/bash
echo "srun has ${SRUN_CPUS_PER_TASK:-no} CPUs a task"
[ -z "$CHECKPOINT" ] || { mkdir -p "$RUN_FOLDER/checkpoints"; \
touch "$RUN_FOLDER/checkpoints/epoch-$CHECKPOINT.npz"; }
exit $CODE
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) echo "NodeName=n9"; echo "   Gres=gpu:a100:3(S:0-1),gpu:t4:1"; \
echo "   GresUsed=gpu:9" ;;
    requeue) echo "requeued $2" ;;
esac
"""


@pytest.fixture
def batch_script(tmp_path):
    """train.sbatch with its lines filled in, and stand-ins for srun and scontrol.

    Running it returns (exit code, what it says).
    """
    text = (CLUSTER / "train.sbatch").read_text(encoding="utf-8")
    for old, new in {
        "/CHANGE-ME/course": tmp_path / "course",
        "/CHANGE-ME/run": tmp_path / "run",
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, str(new))
    python = tmp_path / "course" / ".venv" / "bin" / "python"
    (tmp_path / "course" / "cluster").mkdir(parents=True)
    python.parent.mkdir(parents=True)
    for path, content in {
        "train.sbatch": text,
        "srun": SRUN,
        "scontrol": SCONTROL,
        python: "",
        "course/cluster/train.py": "",
    }.items():
        (tmp_path / path).write_text(content, encoding="utf-8")
        (tmp_path / path).chmod(0o755)

    def run(code, **variables):
        env = os.environ | {
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
        }
        env |= {
            "CODE": str(code),
            "CHECKPOINT": "",
            "SLURMD_NODENAME": "n9",
        } | variables
        done = subprocess.run(
            ["bash", tmp_path / "train.sbatch"],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@bash
def test_what_is_requeued(batch_script):
    """Not what would fail again; what was killed, four times without progress."""
    code, said = batch_script(2)
    assert (
        code == 2
        and "requeued" not in said
        and "change what the sentence above says" in said
    )
    code, said = batch_script(1)
    assert (
        code == 1
        and "requeued" not in said
        and "a Python error within a minute of the first start" in said
    )
    for attempt in range(4):
        code, said = batch_script(137)
        assert code == 137 and ("requeued 7" in said) == (attempt < 3)
    code, said = batch_script(1, CHECKPOINT="000001-00000000")
    assert code == 1 and "requeued 7" in said, (
        "another worker's death looks the same, and there is something to keep"
    )
    code, said = batch_script(75)
    assert code == 75 and "requeued 7" in said
    assert batch_script(0)[0] == 0


@bash
def test_a_batch_script_that_is_started_by_bash(batch_script):
    code, said = batch_script(0, SLURM_JOB_ID="")
    assert code == 2 and "this is no job: start it by sbatch" in said


@bash
def test_cpus_and_gpus_of_a_job(batch_script):
    """srun does not take --cpus-per-task from the job.

    GPUs that the job has not asked for are named.
    """
    _, said = batch_script(0, SLURM_CPUS_PER_TASK="6", SLURM_GPUS_ON_NODE="1")
    assert "srun has 6 CPUs a task" in said
    assert (
        "train.sbatch: this node has 4 GPUs, "
        "and the job uses 1 of them (--gres=gpu:4: all)"
    ) in said
    _, said = batch_script(0, SLURM_GPUS_ON_NODE="4")
    assert "srun has no CPUs a task" in said and "GPUs" not in said
