"""Print what exchanging gradients costs two workers: with TensorFlow and JAX, and with
PyTorch if it is there.

    python -m benchmarks.workers        some three minutes

Ratios of medians, taken in turns in one run, on this machine. Nothing here is a test: a
slow machine is no fault.
"""

# torch is installed for this alone; Keras says that verbose is text.
# pyright: reportMissingImports=false, reportArgumentType=false

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys

from course_launcher import run_on_workers
from course_utils import data, timing
from tools.cells import executed

BATCHES = (64, 128, 256, 512, 1024)
CELLS = ["set-up", "report", "processes", "settings", "train-step"]
CELLS += ["network", "exchanges", "make-step"]
FUNCTIONS = ["new_model", "make_train_step", "make_step"]
FUNCTIONS += ["nothing", "all_reduce", "in_half_precision"]


def on_one_core():
    """Return where this worker is, which has one core from now on: its index, and all
    addresses.
    """
    config = json.loads(os.environ["TF_CONFIG"])
    index, workers = config["task"]["index"], config["cluster"]["worker"]
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[index % len(cores)]})
    return index, workers


def with_tensorflow(batches, notebook):
    """Measure four steps with the model of notebook 03: without any exchange, with one
    of the gradients, four steps a call; and section 2's loop, one step a call.

    Args:
        batches: examples of each worker in a step.
        notebook: its functions, by name (FUNCTIONS).
    """
    import tensorflow as tf

    on_one_core()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    model = notebook["new_model"](tf.distribute.OneDeviceStrategy("CPU:0"))
    mirrored = notebook["new_model"](strategy)
    make_train_step = notebook["make_train_step"]
    train_step = make_train_step(strategy, mirrored, mirrored.optimizer)

    def steps(exchange):
        make_step = notebook["make_step"]
        step = make_step(strategy, model, model.optimizer, notebook[exchange])

        @tf.function(reduce_retracing=True)
        def four_steps(images, labels):
            for _ in tf.range(4):
                step(images, labels)

        return four_steps

    def step_by_step(images, labels):
        return [float(train_step(images, labels)) for _ in range(4)]

    ways = {name: steps(name) for name in ("nothing", "all_reduce")}
    more = {"step by step": step_by_step}
    more["in_half_precision"] = steps("in_half_precision")
    images, labels = data.load_digits()[0]
    found = {}
    for batch in batches:
        part = tf.constant(images[:batch]), tf.constant(labels[:batch])
        compared = ways | more if batch == 128 else ways
        calls = {name: functools.partial(way, *part) for name, way in compared.items()}
        found[batch] = timing.compare(calls, warmup=1, repeats=10)
    return found


def with_pytorch(batches):
    """Make the notebook's measurement in PyTorch: the same model, batches and cores;
    `DistributedDataParallel` over gloo.
    """
    import torch
    from torch import nn

    index, workers = on_one_core()
    torch.set_num_threads(1)
    meeting = f"tcp://{workers[0]}"
    torch.distributed.init_process_group(
        "gloo", init_method=meeting, rank=index, world_size=len(workers)
    )

    def steps(talks):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(32 * 13 * 13, 128), nn.ReLU(), nn.Linear(128, 10)),
        )
        model = nn.parallel.DistributedDataParallel(model) if talks else model
        optimizer, loss_of = (
            torch.optim.Adam(model.parameters(), 0.002),
            nn.CrossEntropyLoss(),
        )

        def four_steps(images, labels):
            for _ in range(4):
                optimizer.zero_grad()
                loss_of(model(images), labels).backward()
                optimizer.step()

        return four_steps

    images, labels = data.load_digits()[0]
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(labels.astype("int64"))
    ways, found = {"nothing": steps(False), "gradients": steps(True)}, {}
    for batch in batches:
        part = images[:batch], labels[:batch]
        calls = {
            name: lambda way=way, part=part: way(*part) for name, way in ways.items()
        }
        found[batch] = timing.compare(
            calls, warmup=1, repeats=12 if batch == 128 else 3
        )
    torch.distributed.destroy_process_group()
    return found


def with_jax(batches):
    """Measure the same with `fit` of Keras on JAX, over gloo: 8 steps, 4 a call."""
    import jax
    import keras

    from course_utils.model import build_model

    index, workers = on_one_core()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(",".join(workers), len(workers), index)
    together = keras.distribution.DataParallel(auto_shard_dataset=False)
    (images, labels), _ = data.load_digits()

    def fitting(distribution, batch):
        keras.distribution.set_distribution(distribution)
        model = build_model(0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.002), loss, steps_per_execution=4)

        class Same(keras.utils.PyDataset):
            def __len__(self):
                return 8

            def __getitem__(self, step):
                return images[:batch], labels[:batch]

        def fit():
            keras.distribution.set_distribution(distribution)
            model.fit(Same(), verbose=0)

        return fit

    found = {}
    for batch in batches:
        calls = {"nothing": fitting(None, batch), "gradients": fitting(together, batch)}
        timed = timing.compare(calls, warmup=1, repeats=3)
        found[batch] = {
            name: dataclasses.replace(each, median=each.median / 2)
            for name, each in timed.items()
        }
    return found


def table(title, found, names):
    """Print rates, and shares of the limit, where they were measured: some ways are at
    one batch size only.
    """
    print(
        f"{title}: thousands of examples/s of two workers together, and the share of "
        "its own limit"
    )
    print(" " * 26 + "".join(f"{batch:>13,}" for batch in found))
    for way, name in names.items():
        cells = []
        for batch, timed in found.items():
            if way in timed:
                rate = 8 * batch / timed[way].median
                share = timed["nothing"].median / timed[way].median
                cells.append(f"{rate:7.1f} {share:4.0%}")
            else:
                cells.append("–")
        print(f"{name:26}" + "".join(f"{cell:>13}" for cell in cells))


def network(batches):
    """Measure and print a table for each library, at these batch sizes of a worker; 128
    must be among them.
    """
    with (
        contextlib.redirect_stdout(sys.stderr),
        executed("03_multi_worker_strategy", *CELLS) as space,
    ):
        notebook = {name: space[name] for name in FUNCTIONS}
        tensorflow = run_on_workers(with_tensorflow, batches, notebook, timeout=300)[0]
    names = {
        "nothing": "nothing: the limit",
        "step by step": "section 2's loop",
        "all_reduce": "four steps a call",
        "in_half_precision": "four a call, float16",
    }
    table("TensorFlow", tensorflow, names)
    for way in "all_reduce", "in_half_precision":
        ratio = tensorflow[128]["step by step"].median / tensorflow[128][way].median
        print(
            f"{names[way]:26}× {ratio:.2f} of section 2's loop, at 128 examples a "
            "worker"
        )
    jax = run_on_workers(
        with_jax, batches[:3], timeout=300, env={"KERAS_BACKEND": "jax"}
    )[0]
    table("Keras on JAX", jax, {"nothing": "nothing: the limit", "gradients": "fit"})
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no comparison with it")
        return
    # has workers start afresh: with TensorFlow loaded, torch ended by SIGSEGV
    alone = {"PYTHONHASHSEED": "0"}
    pytorch = run_on_workers(with_pytorch, batches, timeout=300, env=alone)[0]
    table(
        f"PyTorch {torch.__version__}",
        pytorch,
        {"nothing": "nothing: the limit", "gradients": "DDP over gloo"},
    )
    ratios = []
    for batch in batches:
        reduced = tensorflow[batch]["all_reduce"].median
        ratios.append(f"{pytorch[batch]['gradients'].median / reduced:.2f}")
    print(f"{'TensorFlow / PyTorch':26}" + "".join(f"{ratio:>13}" for ratio in ratios))


def main(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--short", action="store_true", help="one batch size only: does it run?"
    )
    network((128,) if parser.parse_args(arguments).short else BATCHES)


if __name__ == "__main__":
    main(sys.argv[1:])
