"""cluster/train_jax.py: beside train.py, in a folder without the course."""

import functools
import importlib
import re
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import test_train
from test_train import ENVIRONMENT, PROGRAM, ends, log

start = functools.partial(test_train.start, program="train_jax.py")
start_two = functools.partial(test_train.start_two, program="train_jax.py")


def with_sister(folder):
    """The folder, with both programs in it, and random numbers in their model."""
    (folder / "train.py").write_text(test_train.with_dropout(), encoding="utf-8")
    sister = PROGRAM.with_name("train_jax.py").read_text(encoding="utf-8")
    (folder / "train_jax.py").write_text(sister, encoding="utf-8")
    assert len(sister.splitlines()) <= 120
    return folder


@pytest.fixture
def folder(tmp_path):
    return with_sister(tmp_path)


def test_two_processes_train_as_one_and_as_two_after_a_kill(folder):
    undisturbed, (printed, _) = ends(*start_two(folder, "--epochs", "3", "--run-folder", "two"))
    assert re.search(r"epoch 1: accuracy [\d.]+, loss [\d.]+, val_accuracy [\d.]+, val_loss [\d.]+\n", printed)
    ends(start(folder, "--epochs", "3", "--run-folder", "one"))
    one, two = (np.array([list(row.values()) for row in log(folder / name)], float) for name in ("one", "two"))
    assert one == pytest.approx(two, abs=2e-5)

    chief, other = start_two(folder, "--epochs", "3", "--run-folder", "run")
    while not chief.stdout.readline().startswith("epoch 1:"):
        assert chief.poll() is None
    other.send_signal(signal.SIGKILL)
    assert chief.wait(20) != 0, "it does not wait for the dead"
    other.wait()
    chief.stdout.close()
    other.stdout.close()
    digest, (printed, _) = ends(*start_two(folder, "--epochs", "3", "--run-folder", "run"))
    assert digest == undisturbed and "epochs 1 to" not in printed
    assert [row["epoch"] for row in log(folder / "run")] == ["1", "2", "3"]


def test_early_stopping_clipping_precision_and_a_model_that_is_built_late(folder):
    (folder / "train.py").write_text(test_train.built_late(), encoding="utf-8")
    options = "--learning-rate", "1", "--patience", "2", "--clip-norm", "1", "--precision", "mixed_bfloat16"
    ends(start(folder, "--epochs", "40", *options))
    losses = [float(row["val_loss"]) for row in log(folder / "run")]
    assert 3 <= len(losses) < 40 and min(losses) == losses[-3]
    _, (printed,) = ends(start(folder, "--epochs", "40", *options))
    assert f"epochs {len(losses) + 1} to {len(losses)};" in printed, "it had ended"


def test_too_few_examples(folder):
    command = [sys.executable, "train_jax.py", "--batch-size-per-replica", "999", "--allow-cpu"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "261 examples do not fill a batch of 999" in done.stderr


@pytest.mark.parametrize("tasks, own, gpus", [(1, False, "4,5,6,7"), (2, False, "5,7"), (2, True, "4,5,6,7")])
def test_which_gpu_is_whose(monkeypatch, tasks, own, gpus):
    import keras

    monkeypatch.syspath_prepend(PROGRAM.parent)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    train_jax = importlib.import_module("train_jax")
    nothing = types.SimpleNamespace(set_distribution=lambda _: None, DataParallel=lambda **_: None)
    monkeypatch.setattr(keras, "distribution", nothing)
    for name, value in {"CUDA_VISIBLE_DEVICES": "4,5,6,7", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    if own:
        monkeypatch.setenv("SLURM_GPUS_PER_TASK", "4")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    train_jax.meet(0, [], tasks, allow_cpu=True)
    assert train_jax.os.environ["CUDA_VISIBLE_DEVICES"] == gpus


def test_a_gpu_that_jax_does_not_use(monkeypatch):
    monkeypatch.syspath_prepend(PROGRAM.parent)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    train_jax = importlib.import_module("train_jax")
    monkeypatch.setattr(train_jax.shutil, "which", lambda name: name)
    with pytest.raises(SystemExit, match="JAX does not use the GPU here"):
        train_jax.meet(0, [], 1, allow_cpu=False)
