"""What takes minutes: many kills, and the planner on all of `keras.applications`.

Twenty kills in training and twenty during start-up, each recovered from, with equal
weights and nothing left behind; ten more kills of `cluster/train.py` on JAX; and the
planner on all forty of `keras.applications`.

`make soak` runs it, and `make test` does not. What is killed first are the cells
of notebook 03.
"""

import gzip
import json
import math
import os
import random
import tempfile
import threading
import time

import keras
import numpy as np
import psutil
import pytest

import course_planner as planner
from course_launcher import run_on_workers
from tests.integration.test_train import (
    WITH_DROPOUT,
    changed,
    ends,
    log,
    start_two,
    wait_for_first_epoch,
)
from tools import model_costs
from tools.cells import executed

CELLS = (
    "set-up",
    "report",
    "processes",
    "settings",
    "train-step",
    "restored",
    "train-on",
)
TIMES = 5 if os.environ.get("CI") else 20  # CI has 75 minutes for everything


@pytest.fixture(scope="module")
def train_on():
    with executed("03_multi_worker_strategy", *CELLS) as space:
        yield space["train_on"]


@pytest.fixture(scope="module")
def undisturbed(train_on):
    with tempfile.TemporaryDirectory() as folder:
        return run_on_workers(train_on, folder)[0][1]


def living():
    """The workers: children of the run's process, which a server has forked."""
    servers = psutil.Process().children()
    runs = [run for server in servers for run in server.children()]
    return [worker for run in runs for worker in run.children()]


def kill_one(start, delay, chance, killed):
    """Once `start()` is true, wait for the delay, and kill one of the workers."""
    deadline = time.monotonic() + 60
    while not start() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)  # the moment: nothing is waited for
    workers = living()
    victim = chance.choice(workers)
    killed.append(victim.pid)
    victim.kill()


@pytest.mark.parametrize("k", range(TIMES))
@pytest.mark.parametrize("phase", ["training", "start-up"])
def test_killed_and_recovered(
    phase, k, train_on, undisturbed, tmp_path, capfd, monkeypatch
):
    chance, killed, temporary = (
        random.Random(f"{phase} {k}"),
        [],
        tmp_path / "temporary",
    )
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    if phase == "training":
        log = tmp_path / "log.txt"
        when = (lambda: log.exists() and log.stat().st_size > 0), chance.uniform(0, 0.5)
    else:
        when = (lambda: len(living()) == 2), chance.uniform(0, 0.5)
    thread = threading.Thread(target=kill_one, args=[*when, chance, killed])
    thread.start()
    ends = run_on_workers(train_on, str(tmp_path), timeout=100, restarts=1)
    thread.join()
    assert (
        killed
        and "was killed by SIGKILL: all are started again (1 of 1)"
        in capfd.readouterr().out
    )
    for _, weights in ends:
        assert all(
            np.array_equal(mine, theirs)
            for mine, theirs in zip(weights, undisturbed, strict=True)
        )
    assert not living()
    assert not list(temporary.iterdir())


@pytest.fixture(scope="module")
def train_on_jax(tmp_path_factory):
    """Two workers on JAX to start in a folder, and their digest at the end.

    The digest is the one with which they end if nobody is killed.
    """

    def start(folder):
        changed(folder, WITH_DROPOUT)
        return start_two(
            folder, "--backend", "jax", "--epochs", "8", "--run-folder", "run"
        )

    return start, ends(*start(tmp_path_factory.mktemp("undisturbed")))[0]


@pytest.mark.parametrize("k", range(2 if os.environ.get("CI") else 10))
def test_killed_on_jax_and_resumed(k, train_on_jax, tmp_path):
    (start, undisturbed), chance = train_on_jax, random.Random(k)
    workers = start(tmp_path)
    wait_for_first_epoch(workers[0])
    time.sleep(chance.uniform(0, 1))
    chance.choice(workers).kill()
    for worker in workers:
        worker.communicate(timeout=300)
        assert worker.returncode != 0, (
            "nobody waits for the dead, and nobody says that all is well"
        )
    done = len(log(tmp_path / "run"))
    digest, (printed, _) = ends(*start(tmp_path))
    assert digest == undisturbed and len(log(tmp_path / "run")) == 8
    assert f"epochs {done} to 8" in printed or f"epochs {done + 1} to 8" in printed, (
        "at most an epoch is lost"
    )


@pytest.mark.parametrize("name", model_costs.APPLICATIONS)
def test_the_planner_counts_every_model_of_keras_applications(name):
    model, layers = (
        getattr(keras.applications, name)(weights=None),
        model_costs.counted(name),
    )
    stored = json.loads(gzip.decompress(model_costs.STORED.read_bytes()))[name]
    assert json.loads(json.dumps(model_costs.rows(layers))) == stored, (
        "python -m tools.model_costs"
    )
    assert sum(layer.parameters for layer in layers) == sum(
        math.prod(w.shape) for w in model.trainable_weights
    )
    guesses, flops = (
        sum(layer.flops * layer.guess for layer in layers),
        sum(layer.flops for layer in layers),
    )
    assert (
        flops > 1e8 and guesses < 1e-4 * flops
    )  # ConvNeXt's LayerScale is a layer of its own, with weights
    assert planner.memory(layers, "ZeRO-3", 8, 64)[0].total > 0
