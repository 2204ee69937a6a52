"""Print what a launch of two workers costs, and what they pay for talking: TensorFlow's, and PyTorch's if it is there.

    python tools/bench.py [launch | network]        by default both; some three minutes

Ratios of medians, taken in turns in one run, on this machine. Nothing here is a test: a slow machine is no fault.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from cells import executed  # noqa: E402

from course_utils import data, timing  # noqa: E402
from course_utils.cluster import run_on_workers  # noqa: E402

REPEATS = 5
BATCHES = (64, 128, 256, 512, 1024)
CELLS = (
    *("set-up", "report", "processes", "settings", "train-step", "train"),
    *("network", "steps", "exchanges", "average", "costs", "measure"),
)


def side_by_side():
    bare = [sys.executable, "-c", "import tensorflow"]
    for process in [subprocess.Popen(bare, stderr=subprocess.DEVNULL) for _ in range(2)]:
        process.wait()


def nothing():
    pass


def load_tensorflow():
    import tensorflow  # noqa: F401


WAYS = {
    "python -c 'import tensorflow', twice side by side": side_by_side,
    "a launch of two that does nothing": lambda: run_on_workers(nothing),
    "a launch of two that loads TensorFlow": lambda: run_on_workers(load_tensorflow),
}


def launch():
    seconds = {name: [] for name in WAYS}
    for _ in range(REPEATS + 1):  # the first, which fills the disk's cache, does not count
        for name, way in WAYS.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    for name, median in medians.items():
        print(f"{name:52}{median:6.2f} s  × {median / next(iter(medians.values())):.2f}")


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
        tensorflow = space["found"]
    names = {
        "nothing": "nothing: the limit",
        "step by step": "section 2's loop",
        "talk": "four steps a call",
        "in_half_precision": "four a call, float16",
        "weights, every fourth step": "weights, every 4th step",
    }
    table("TensorFlow", tensorflow, names)
    for way in "talk", "in_half_precision", "weights, every fourth step":
        ratio = tensorflow[128]["step by step"].median / tensorflow[128][way].median
        print(f"{names[way]:26}× {ratio:.2f} of section 2's loop, at 128 examples a worker")
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no comparison with it")
        return
    pytorch = run_on_workers(with_pytorch, BATCHES, timeout=300)[0]
    table(f"PyTorch {torch.__version__}", pytorch, {"nothing": "nothing: the limit", "gradients": "DDP over gloo"})
    ratios = [f"{pytorch[batch]['gradients'].median / tensorflow[batch]['talk'].median:.2f}" for batch in BATCHES]
    print(f"{'TensorFlow / PyTorch':26}" + "".join(f"{ratio:>13}" for ratio in ratios))


PARTS = {"launch": launch, "network": network}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    part = parser.parse_args(arguments).part
    for function in PARTS.values() if part == "all" else [PARTS[part]]:
        function()


if __name__ == "__main__":
    main(sys.argv[1:])
