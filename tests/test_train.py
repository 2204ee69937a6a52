"""cluster/train.py, the program to take home: alone in a folder, without the course."""

import csv
import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

from course_utils import cluster, environment

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "cluster" / "train.py"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TF_CONFIG")}


@pytest.fixture
def folder(tmp_path):
    shutil.copy(PROGRAM, tmp_path)
    return tmp_path


def start(folder, *options, program="train.py", **env):
    command = [sys.executable, program, "--allow-cpu", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT | env, **pipes)


def start_two(folder, *options, program="train.py", roles=(("worker", 0), ("worker", 1))):
    """Two workers, or a chief and a worker, with half of the batch each."""
    places = {}
    for (role, _), address in zip(roles, cluster.free_addresses(2), strict=True):
        places.setdefault(role, []).append(address)
    tasks = [{"type": role, "index": index} for role, index in roles]
    configs = [json.dumps({"cluster": places, "task": task}) for task in tasks]
    options = "--batch-size-per-replica", "32", *options
    return [start(folder, *options, program=program, TF_CONFIG=config) for config in configs]


def with_dropout():
    """The program's text, with random numbers in its model."""
    flat = "keras.layers.Flatten()"
    text = PROGRAM.read_text(encoding="utf-8")
    assert text.count(flat) == 1
    return text.replace(flat, f"{flat}, keras.layers.Dropout(0.3)")


def built_late():
    """The program's text, with a model that has no weights until it is called."""
    late = "model = Late(layers + [keras.layers.Dense(10)])"
    text = PROGRAM.read_text(encoding="utf-8").replace("keras.utils.set_random_seed(0)", LATE.strip())
    text = re.sub(r"model = keras\.Sequential\(.*", late, text)
    assert late in text
    return text


def ends(*processes):
    """What they print; each must end well, with the same digest, which comes first."""
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), printed
    (digest,) = {re.search(r"weights ([0-9a-f]{16})\n$", text)[1] for text in printed}
    return digest, printed


def log(folder):
    return list(csv.DictReader((folder / "log.csv").open()))


def test_two_workers_train_as_one_process_does(folder):
    _, (printed,) = ends(start(folder, "--epochs", "1", "--run-folder", "one"))
    roles = ("chief", 0), ("worker", 0)  # which is the first one, and who writes
    ends(*start_two(folder, "--epochs", "1", "--run-folder", "two", roles=roles))
    one, two = (np.array(list(log(folder / name)[0].values()), float) for name in ("one", "two"))
    assert one == pytest.approx(two, abs=2e-6)
    assert re.match(r"epoch 1: loss [\d.]+, accuracy [\d.]+, val_loss [\d.]+, val_accuracy [\d.]+\n", printed)
    assert {"best.weights.h5", "checkpoints", "log.csv"} <= {path.name for path in (folder / "two").iterdir()}


def test_after_a_kill_it_ends_with_the_weights_of_an_undisturbed_run(folder):
    (folder / "train.py").write_text(with_dropout(), encoding="utf-8")
    undisturbed, _ = ends(*start_two(folder, "--epochs", "3", "--run-folder", "calm"))
    chief, other = start_two(folder, "--epochs", "3", "--run-folder", "run")
    assert chief.stdout.readline().startswith("epoch 1:")
    other.send_signal(signal.SIGKILL)
    assert chief.wait(120) != 0
    other.wait()
    chief.stdout.close()
    other.stdout.close()
    digest, (printed, _) = ends(*start_two(folder, "--epochs", "3", "--run-folder", "run"))
    assert digest == undisturbed and "worker 0: epochs 1 to" not in printed
    assert [row["epoch"] for row in log(folder / "run")] == ["1", "2", "3"]


def test_a_subclass_is_built(folder):
    (folder / "train.py").write_text(built_late(), encoding="utf-8")
    ends(start(folder, "--epochs", "1"))


LATE = """
    class Late(keras.Model):
        def __init__(self, parts):
            super().__init__()
            self.parts = parts

        def call(self, inputs):
            for part in self.parts:
                inputs = part(inputs)
            return inputs
"""


def test_data_precision_and_early_stopping(folder):
    numbers = np.random.default_rng(0)
    arrays = {f"x_{part}": numbers.normal(size=(64, 8, 8, 1)).astype("float32") for part in ("train", "test")}
    arrays |= {f"y_{part}": numbers.integers(10, size=64) for part in ("train", "test")}  # nothing to be learnt
    np.savez(folder / "noise.npz", **arrays)
    (folder / "sklearn.py").write_text("raise ImportError")  # it is the sample data's only
    options = ["--data", "noise.npz", "--precision", "mixed_bfloat16", "--learning-rate", "0.1", "--clip-norm", "1"]
    ends(start(folder, "--epochs", "40", "--patience", "2", *options))
    losses = [float(row["val_loss"]) for row in log(folder / "run")]
    assert 3 <= len(losses) < 40 and min(losses) == losses[-3]


def test_too_few_examples(folder):
    process = subprocess.run(
        [sys.executable, "train.py", "--batch-size-per-replica", "999", "--allow-cpu"],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert process.returncode == 1
    assert "261 examples do not fill a batch of 999: lower --batch-size-per-replica" in process.stderr


def test_help_loads_nothing(folder):
    for name in "tensorflow", "keras", "numpy", "sklearn":
        (folder / f"{name}.py").write_text("raise SystemExit('loaded')")
    help_text = subprocess.check_output([sys.executable, "train.py", "--help"], cwd=folder, text=True)
    options = [
        "--epochs",
        "--batch-size-per-replica",
        "--learning-rate",
        "--run-folder",
        "--data",
        "--precision",
        "--allow-cpu",
    ]
    assert all(option in help_text for option in options)


@pytest.fixture
def train(monkeypatch):
    """The program as a module."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    return importlib.import_module("train")


def test_a_gpu_that_tensorflow_does_not_use(train, monkeypatch):
    monkeypatch.setattr(train.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    with pytest.raises(SystemExit, match=r"TensorFlow does not use the GPU here: install tensorflow\[and"):
        train.strategy_for_what_is_here([], 1, allow_cpu=False)
    assert train.strategy_for_what_is_here([], 1, allow_cpu=True).num_replicas_in_sync == 1


@pytest.mark.parametrize(
    "tasks, own, gpus", [(1, False, "abcd"), (2, False, "bd"), (4, False, "b"), (2, True, "abcd"), (8, False, "abcd")]
)
def test_which_gpu_is_whose(train, monkeypatch, tasks, own, gpus):
    import tensorflow as tf

    seen, growing = ["abcd"], []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list("abcd"))
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda some, kind: seen.append("".join(some)))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, yes: growing.append(gpu))
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: "mirrored")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    if own:
        monkeypatch.setenv("SLURM_GPUS_PER_TASK", "2")
    strategy = train.strategy_for_what_is_here([], tasks, allow_cpu=False)
    assert seen[-1] == "".join(growing) == gpus and (strategy == "mirrored") == (len(gpus) > 1)


def test_the_place_that_slurm_gives(train, monkeypatch):
    nodes = types.SimpleNamespace(check_output=lambda command, text: "n9\nn10\nn11\n")
    monkeypatch.setattr(train, "subprocess", nodes)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert train.find_place() == (0, [], 1) and "TF_CONFIG" not in os.environ
    variables = {"STEP_NODELIST": "n[9-11]", "STEP_TASKS_PER_NODE": "2(x2),1", "JOB_ID": "4711", "PROCID": "3"}
    for name, value in (variables | {"NODEID": "1"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("TF_CONFIG", "")  # to be taken away at the end
    monkeypatch.delenv("TF_CONFIG")
    workers = ["n9:21422", "n9:21423", "n10:21422", "n10:21423", "n11:21422"]
    assert train.find_place() == (3, workers, 2)
    config = json.loads(os.environ.pop("TF_CONFIG"))
    assert config == {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 3}}


def trained(replicas, policy, clip_norm):
    sys.path.insert(0, str(PROGRAM.parent))
    devices = environment.logical_devices(2, kind="cpu")
    import keras
    import tensorflow as tf

    train = importlib.import_module("train")
    keras.config.set_dtype_policy(policy)
    strategy = tf.distribute.MirroredStrategy(devices[:replicas], tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        model = train.build()
        model.compile(keras.optimizers.SGD(0.05), model.loss, metrics=["accuracy"])
        model.optimizer.build(model.trainable_variables)
    step, _ = train.make_steps(strategy, model, clip_norm)
    batches = tf.data.Dataset.from_tensor_slices(train.examples(None)[0]).batch(128, drop_remainder=True).take(4)
    results = train.averaged(model, step, list(strategy.experimental_distribute_dataset(batches)))
    return results, model.get_weights()


@pytest.mark.parametrize("policy, clip_norm, tolerance", [("float32", 0.5, 1e-7), ("mixed_float16", 0.5, 1e-3)])
def test_clipping_and_loss_scaling_on_two_replicas(policy, clip_norm, tolerance):
    (one, alone), (two, weights) = (cluster.run_in_process(trained, n, policy, clip_norm) for n in (1, 2))
    assert two == pytest.approx(one, abs=max(tolerance, 1e-5))
    assert max(np.abs(a - b).max() for a, b in zip(alone, weights, strict=True)) <= tolerance
    if policy == "float32":
        (free, _) = cluster.run_in_process(trained, 1, policy, None)
        assert abs(free["loss"] - one["loss"]) > 0.01, "it was clipped"


def test_a_file_that_is_nowhere():
    assert cluster.program("train.py") == PROGRAM
    with pytest.raises(FileNotFoundError, match=r"^train\.txt: not in a clone, nor in .*: install the course again$"):
        cluster.program("train.txt")


def test_its_length():
    assert len(PROGRAM.read_text(encoding="utf-8").splitlines()) <= 200
