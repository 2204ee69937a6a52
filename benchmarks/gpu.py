"""Keras on JAX on a physical GPU: equal to the CPU, how fast, and how much memory.
`docs/gpu.md` has what it printed.

usage: python -m benchmarks.gpu equal | speed | two | resumed  needs JAX with a GPU,
    Keras and scikit-learn; no TensorFlow
"""

# Keras' arguments have the types of their defaults: of verbose, text.
# pyright: reportArgumentType=false

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
CPU = {"JAX_PLATFORMS": "cpu"}
# float32 in all its digits, on the GPU too
FULL = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}


def train_on_jax(folder, epochs, *options):
    """The command that trains in this folder with `cluster/train.py`, on JAX."""
    program = ROOT / "cluster" / "train.py"
    return [
        sys.executable,
        program,
        "--backend=jax",
        f"--epochs={epochs}",
        f"--run-folder={folder}",
        *options,
    ]


def by_itself(function, *words, **env):
    """What `function` of this file says, called in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gpu", function, *map(str, words)]
    done = subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        return {"error": done.stderr[-1500:]}
    return json.loads(done.stdout.splitlines()[-1])


def notebook_04(way):
    """Twelve steps of 04's `train_on_jax`: its loss and its weights."""
    cells = json.loads(
        (ROOT / "notebooks" / "04_tpu_strategy.ipynb").read_text("utf-8")
    )["cells"]
    from course_utils.model import build_model

    space = {"DATASET": "digits", "build_model": build_model}
    for cell in cells:
        if cell["id"] in ("jax-layout", "jax-held", "jax-train"):
            exec(
                "".join(cell["source"]).replace(
                    "import course_launcher as launcher", ""
                ),
                space,
            )
    loss, (_, weights), *_ = space["train_on_jax"](way)
    return {"loss": loss, "weights": [weight.tolist() for weight in weights]}


def made(kind, batch, policy):
    """A compiled model, a batch for it, and its layers by the planner."""
    import keras

    import course_planner as planner
    from course_utils.model import build_model

    keras.config.set_dtype_policy(policy)
    size = (28, 28, 1) if kind == "cnn" else (224, 224, 3)
    model = (
        build_model(0)
        if kind == "cnn"
        else keras.applications.ResNet50(weights=None, classes=10)
    )
    model.compile(
        keras.optimizers.Adam(0.001),
        keras.losses.SparseCategoricalCrossentropy(from_logits=kind == "cnn"),
    )
    random = np.random.RandomState(0)
    arrays = random.rand(batch, *size).astype("float32"), random.randint(10, size=batch)
    return model, arrays, planner.layer_costs(model)


def epochs(kind, batch, policy, steps):
    """Examples/s of `fit` on batches that lie in the GPU's memory: median, lowest and
    highest of five epochs.
    """
    import jax
    import keras

    import course_planner as planner

    batch, steps = int(batch), int(steps)
    model, (images, labels), layers = made(kind, batch, policy)
    model.steps_per_execution = steps
    images, labels, count = (
        jax.device_put(images),
        jax.device_put(labels),
        64 if kind == "cnn" else 16,
    )

    class Same(keras.utils.PyDataset):
        def __len__(self):
            return count

        def __getitem__(self, step):
            return images, labels

    model.fit(Same(), verbose=0)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        model.fit(Same(), verbose=0)
        rates.append(count * batch / (time.perf_counter() - start))
    stats = jax.devices()[0].memory_stats() or {}
    held = planner.memory(layers, "one device", 1, batch, precision=policy)[0]
    return {
        "rates": [statistics.median(rates), min(rates), max(rates)],
        "planned": held.total,
        "peak": stats.get("peak_bytes_in_use"),
    }


def equal():
    import jax

    print(jax.__version__, jax.devices(), flush=True)
    there = by_itself("notebook_04", "alone", **FULL, **CPU)
    for way in "alone", "data", "sharded":
        here = by_itself("notebook_04", way, **FULL)
        if "error" in here or "error" in there:
            print(way, here.get("error"), there.get("error"), flush=True)
            continue
        pairs = zip(here["weights"], there["weights"], strict=True)
        gap = max(np.abs(np.array(a) - np.array(b)).max() for a, b in pairs)
        print(
            (
                f"04, {way}: loss {here['loss']:.6f}, on the CPU {there['loss']:.6f}; "
                f"weights: {gap:.2g}"
            ),
            flush=True,
        )
    logs = []
    for env in FULL, FULL | CPU:
        with tempfile.TemporaryDirectory() as folder:
            command = train_on_jax(folder, 3, "--allow-cpu")
            done = subprocess.run(
                command, env=os.environ | env, capture_output=True, text=True
            )
            print(done.stdout or done.stderr[-1500:], flush=True)
            logs.append(
                np.loadtxt(pathlib.Path(folder, "log.csv"), delimiter=",", skiprows=1)
            )
    print(
        "train.py: its log on the GPU and on the CPU, at most "
        f"{np.abs(logs[0] - logs[1]).max():.2g} apart"
    )


def speed(kind="cnn", *sizes):
    for batch in sizes or (128, 512, 2048, 8192):
        for policy, steps in (
            ("float32", 1),
            ("float32", 8),
            ("mixed_bfloat16", 1),
            ("mixed_bfloat16", 8),
        ):
            print(
                kind,
                batch,
                policy,
                steps,
                json.dumps(by_itself("epochs", kind, batch, policy, steps)),
                flush=True,
            )


def resumed():
    """The digest of three epochs, of the same once more, and of one and then two;
    without and with XLA's flag.
    """
    for flags in "", "--xla_gpu_deterministic_ops=true":
        with tempfile.TemporaryDirectory() as folder:
            for name, epochs in (
                ("first", 3),
                ("again", 3),
                ("stopped", 1),
                ("stopped", 3),
            ):
                command, env = (
                    train_on_jax(f"{folder}/{name}", epochs),
                    os.environ | {"XLA_FLAGS": flags},
                )
                done = subprocess.run(command, env=env, capture_output=True, text=True)
                print(
                    flags or "no flag",
                    name,
                    (done.stdout or done.stderr).splitlines()[-1],
                    flush=True,
                )


def two():
    """Two processes on one GPU."""
    config = {"cluster": {"worker": ["127.0.0.1:23456", "127.0.0.1:23457"]}}
    command = train_on_jax(tempfile.mkdtemp(), 1)
    places = [
        json.dumps(config | {"task": {"type": "worker", "index": k}}) for k in range(2)
    ]
    envs = [
        os.environ | {"TF_CONFIG": place, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        for place in places
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen(command, env=env, **pipes) for env in envs]
    for process in running:
        print(process.communicate(timeout=200)[0][-2500:])


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    os.environ.setdefault("KERAS_BACKEND", "jax")
    said = globals()[name](*words)
    if said is not None:
        print(json.dumps(said))
