"""Print what launches, results and exchanges cost: with TensorFlow, and exchanges with PyTorch if it is there.

    python tools/bench.py [launch | results | network]        by default all; some four minutes

Ratios of medians, taken in turns in one run, on this machine. Nothing here is a test: a slow machine is no fault.
"""

import argparse
import contextlib
import json
import os
import pathlib
import pickle
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from cells import executed  # noqa: E402

from course_utils import data, timing  # noqa: E402
from course_utils.cluster import run_in_process, run_on_workers  # noqa: E402

REPEATS = 5
COUNTS = (1, 2, 4, 8)
BATCHES = (64, 128, 256, 512, 1024)
CELLS = ["set-up", "report", "processes", "settings", "train-step", "train", "network", "exchanges", "steps", "costs"]


def bare_imports(count):
    command = [sys.executable, "-c", "import tensorflow"]
    for process in [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(count)]:
        process.wait()


def meet():
    """Form a cluster and exchange a number; the process's own part of memory (PSS: what is shared counts once)."""
    import psutil
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None)
    return psutil.Process().memory_full_info().pss


def medians(ways):
    """Seconds of each way, taken in turns, without the first turn: it fills caches and starts the fork server."""
    seconds = {name: [] for name in ways}
    for _ in range(REPEATS + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(samples[1:]) for name, samples in seconds.items()}


def launch():
    ways = {(0, 2): lambda: bare_imports(2)}
    for count in COUNTS:
        ways |= {(0, count): lambda count=count: bare_imports(count)}
        ways |= {(1, count): lambda count=count: run_on_workers(meet, workers=count)}
    found = medians(ways)
    two = found[0, 2]
    print("workers   bare imports side by side      a launch that meets        memory of all")
    for count in COUNTS:
        memory = sum(run_on_workers(meet, workers=count)) / 2**20
        times = "".join(f"{found[way, count]:12.2f} s  × {found[way, count] / two:.2f}     " for way in (0, 1))
        print(f"{count:7}{times}{memory:10,.0f} MiB")


def results():
    print("    MiB   there and back   pickled and unpickled")
    for size in (1, 4, 16, 64, 256):
        array = np.random.default_rng(0).random(size * 2**17)
        ways = {"sent": lambda array=array: run_in_process(np.asarray, array),
                "pickled": lambda array=array: pickle.loads(pickle.dumps(array))}  # fmt: skip
        found = medians(ways)
        print(f"{size:7}{found['sent']:15.3f} s{found['pickled']:15.3f} s   × {found['sent'] / found['pickled']:.1f}")


def with_pytorch(batches):
    """The notebook's measurement in PyTorch: the same model, batches and cores; `DistributedDataParallel` over gloo."""
    import torch
    from torch import nn

    config = json.loads(os.environ["TF_CONFIG"])
    index, workers = config["task"]["index"], config["cluster"]["worker"]
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[index % len(cores)]})
    torch.set_num_threads(1)
    meeting = f"tcp://{workers[0]}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=index, world_size=len(workers))

    def steps(talks):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(32 * 13 * 13, 128), nn.ReLU(), nn.Linear(128, 10)),
        )
        model = nn.parallel.DistributedDataParallel(model) if talks else model
        optimizer, loss_of = torch.optim.Adam(model.parameters(), 0.002), nn.CrossEntropyLoss()

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
        calls = {name: lambda way=way, part=part: way(*part) for name, way in ways.items()}
        found[batch] = timing.compare(calls, warmup=1, repeats=12 if batch == 128 else 3)
    torch.distributed.destroy_process_group()
    return found


def table(title, found, names):
    print(f"{title}: thousands of examples/s of two workers together, and the share of its own limit")
    print(" " * 26 + "".join(f"{batch:>13,}" for batch in found))
    for way, name in names.items():
        cells = [
            f"{8 * batch / timed[way].median:7.1f} {timed['nothing'].median / timed[way].median:4.0%}"
            for batch, timed in found.items()
        ]
        print(f"{name:26}" + "".join(f"{cell:>13}" for cell in cells))


def network():
    with contextlib.redirect_stdout(sys.stderr), executed("03_multi_worker_strategy", *CELLS) as space:
        tensorflow = run_on_workers(space["costs"], BATCHES, timeout=300)[0]
    names = {
        "nothing": "nothing: the limit",
        "step by step": "section 2's loop",
        "all_reduce": "four steps a call",
        "in_half_precision": "four a call, float16",
    }
    table("TensorFlow", tensorflow, names)
    for way in "all_reduce", "in_half_precision":
        ratio = tensorflow[128]["step by step"].median / tensorflow[128][way].median
        print(f"{names[way]:26}× {ratio:.2f} of section 2's loop, at 128 examples a worker")
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no comparison with it")
        return
    pytorch = run_on_workers(with_pytorch, BATCHES, timeout=300)[0]
    table(f"PyTorch {torch.__version__}", pytorch, {"nothing": "nothing: the limit", "gradients": "DDP over gloo"})
    ratios = [f"{pytorch[batch]['gradients'].median / tensorflow[batch]['all_reduce'].median:.2f}" for batch in BATCHES]
    print(f"{'TensorFlow / PyTorch':26}" + "".join(f"{ratio:>13}" for ratio in ratios))


PARTS = {"launch": launch, "results": results, "network": network}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    part = parser.parse_args(arguments).part
    for function in PARTS.values() if part == "all" else [PARTS[part]]:
        function()


if __name__ == "__main__":
    main(sys.argv[1:])
