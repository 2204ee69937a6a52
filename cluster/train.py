"""Train a Keras model on one device, on all GPUs of a machine, or on several machines.

    python train.py --epochs 10 --run-folder run        on this machine
    python train.py --local-workers 2                   two processes on this machine
    python train.py --dry-run                           a few steps: how fast is it?
    sbatch train.sbatch                                 on Slurm
    kubectl apply -f kubernetes/job.yaml                on Kubernetes
    bash two_machines.sh                                on two machines, by ssh

`build` and `examples` below are yours: change them. With `--backend jax` Keras
trains on JAX. Every process runs this file and reaches the same --run-folder:

    log.csv              a row for each epoch
    best.weights.h5      the weights of the epoch with the lowest validation loss
    last.weights.h5      those of the last epoch, and
    model.keras          the same with the model's architecture
    checkpoints/         all that goes on: started again, training continues there
    events/              for TensorBoard, where it is installed: a file for each start
    lease.json           while it trains: no other training may use the folder

Keras' own `fit` trains wherever it runs: in one process on TensorFlow, and in any
number of processes on JAX. Where it does not, in several processes on TensorFlow,
the loop in `ByHand` calls the model's `train_step` in its place.

While it trains, SIGTERM and SIGUSR1 make all processes save at the same step, and end
with exit code 75: started again, they go on with that step, and end with the weights
of an undisturbed run. (Callbacks of your own begin anew at each start.) Exit code 2
says that starting it again will not help: read the sentence above it.
"""

import argparse
import collections
import contextlib
import csv
import datetime
import errno
import faulthandler
import functools
import hashlib
import importlib.util
import inspect
import io
import itertools
import json
import math
import os
import pathlib
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import typing
import uuid
import zipfile

BACKENDS = ("tensorflow", "jax")
# What TensorFlow tells of its inner workings is no news; its errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def choose_backend(words):
    """Set KERAS_BACKEND, which Keras reads when anything imports it for the first time.

    words: the command line. Return the backend's name.
    """
    default = os.environ.get("KERAS_BACKEND") or "tensorflow"
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--backend", default=default)
    backend = parser.parse_known_args(words)[0].backend
    if backend in BACKENDS:
        os.environ["KERAS_BACKEND"] = backend
    return backend


if __name__ == "__main__":
    choose_backend(sys.argv[1:])  # here: what follows may import Keras


# ---- yours: from here ----------------------------------------------------------------


def build():
    """Return a compiled model: its loss, optimizer, metrics, `train_step` are used."""
    import keras

    @keras.saving.register_keras_serializable()
    class Residual(keras.layers.Layer):
        def build(self, shape):
            self.convolution = keras.layers.Conv2D(
                shape[-1], 3, padding="same", kernel_regularizer="l2"
            )
            self.convolution.build(shape)

        def call(self, inputs):
            return inputs + keras.ops.relu(self.convolution(inputs))

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same"),
            Residual(),
            Residual(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, dtype="float32"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])
    return model


def examples(path):
    """Return what to train on, and what to validate with.

    path: the value of --data, or None.

    Each of the two is (inputs, targets) or (inputs, targets, weights), as arrays, or
    as a `tf.data.Dataset` of single examples. Inputs and targets may be dicts or
    tuples. Random numbers are seeded before, the same in all processes. If training
    examples are a dataset, it is asked for anew in each epoch, with a seed of the
    epoch's own: so it is augmented anew; but a random split needs a seed of yours.
    """
    import numpy as np

    if path:
        file = np.load(path)
        training = file["x_train"], file["y_train"]
        validation = file["x_test"], file["y_test"]
        return training, validation
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    images = (digits.images[..., None] / 16).astype("float32")
    training = images[:1536], digits.target[:1536]
    validation = images[1536:], digits.target[1536:]
    return training, validation


def callbacks(folder):
    """Return Keras callbacks of your own, new ones at each start.

    folder: where they may write; in all processes but the first it is thrown away.
    Their `on_test_…` methods are not called.
    """
    return []


# ---- yours: to here ------------------------------------------------------------------

CHECK_EVERY = 10
"""Calls of the training function between two questions whether a signal has come."""
FIRST_SEED = 0
KEPT_CHECKPOINTS = 2
LEASE_RENEWED = 5
LEASE_EXPIRES = 30
"""Seconds after which a lease that nobody renews is nobody's."""
PORT_SECONDS = 20
"""How long a worker waits for a port that its predecessor may still have."""
PEERS_SECONDS = 15
"""How long other local workers may go on after one has failed."""
PROGRESS_SECONDS = 30
RETRY_SECONDS = 0.5
REFUSED = 2
"""The exit code after a sentence that says what to change: argparse's own."""
WRITTEN = ("log.csv", "best.weights.h5", "last.weights.h5", "model.keras")
"""What a training leaves in its folder, beside the checkpoints."""
SAVED = 75
"""The exit code after a signal, when everything is saved: sysexits.h's EX_TEMPFAIL."""
SIGNALS = ("SIGTERM", "SIGUSR1")


class Refused(SystemExit):
    """Starting again will not help: its text says what to change."""


def refuse(why):
    """End this process with a sentence."""
    raise Refused(f"train.py: {why}")


def say(text):
    """Print a line in one piece: other processes print, too."""
    print(f"{text}\n", end="", flush=True)


# The command line


def number(kind, at_least, words):
    """Return a type for argparse: a number of this kind, with a lower bound.

    words: what it must be, in words. at_least: the bound, which itself does not fit
    where the kind is float.
    """

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        fits = value >= at_least if kind is int else value > at_least
        if not fits or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text} is not {words}")
        return value

    return convert


count = number(int, 1, "a whole number, 1 or more")
count_or_none = number(int, 0, "a whole number, 0 or more")
positive = number(float, 0, "a number above 0")


def folder_name(text):
    """Return a path; argparse calls it for RUN_FOLDER's value, too."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it, or RUN_FOLDER, is empty: name a folder")
    return pathlib.Path(text)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong: several processes may say it at once."""

    def error(self, message):
        self.exit(REFUSED, f"train.py: {message} (train.py --help has all options)\n")


def parse(words):
    """Return the options of this command line."""
    parser = Parser(
        prog="train.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--backend", choices=BACKENDS, default=choose_backend(words))
    add("--epochs", type=count, default=10)
    add(
        "--batch-size-per-replica",
        type=count,
        default=64,
        help="examples a device and step (default: 64)",
    )
    add("--learning-rate", type=positive, help="default: that of build()")
    add(
        "--warm-up-steps",
        type=count_or_none,
        default=0,
        help="steps in which the learning rate grows from 0",
    )
    add(
        "--accumulate",
        type=count,
        default=1,
        help="batches whose gradients are averaged for one update of the weights",
    )
    add(
        "--clip-norm",
        type=positive,
        help="largest norm of the gradient of all replicas' examples",
    )
    add(
        "--patience",
        type=count,
        help="stop after so many epochs without a lower validation loss",
    )
    add("--precision", choices=["float32", "mixed_bfloat16", "mixed_float16"])
    add("--data", help="what examples() gets as its path")
    add(
        "--run-folder",
        type=folder_name,
        default=os.environ.get("RUN_FOLDER", "run"),
    )
    add(
        "--shuffle-buffer-mib",
        type=positive,
        default=256,
        help="memory in which a tf.data.Dataset is shuffled (default: 256 MiB)",
    )
    add(
        "--wait-for-workers",
        type=positive,
        default=300,
        metavar="SECONDS",
        help="end if not all workers are there after so long (default: 300)",
    )
    add(
        "--check-replicas",
        type=count,
        metavar="EVERY",
        help="compare the replicas' copies of weights and optimizer every so many "
        "steps and before each save, and end if a bit differs; it reads all of them",
    )
    add("--allow-cpu", action="store_true", help="use CPUs though there is a GPU")
    add(
        "--local-workers",
        type=count,
        default=1,
        help="train with so many processes on this machine, which share its GPUs",
    )
    add(
        "--logical-cpus",
        type=count,
        help="try it on so many devices, simulated on this machine's CPU",
    )
    add("--dry-run", action="store_true", help="a few steps, what they take, no files")
    options = parser.parse_args(words)
    if options.backend not in BACKENDS:  # argparse does not look at a default
        parser.error(
            f"KERAS_BACKEND is {options.backend}: it must be {' or '.join(BACKENDS)}"
        )
    return options


# Where this process is

Place = collections.namedtuple("Place", "index workers local_index local_count")
Place.__doc__ = """One process of a cluster.

index: its number. workers: the addresses of all processes, "" where one is not known;
none if it is alone. local_index, local_count: its number on its machine, and how many
there are.
"""


def resolve_cluster(environment):
    """Return this process's `Place`.

    It is told by TF_CONFIG, by JAX_COORDINATOR_ADDRESS and its sisters, or by Slurm. On
    Slurm TF_CONFIG is written into the environment, where TensorFlow looks for it.
    """
    tasks = tasks_of_nodes(environment)
    on_this_node = tasks[int(environment.get("SLURM_NODEID", 0))]
    local = int(environment.get("SLURM_LOCALID", 0)), on_this_node
    if not environment.get("TF_CONFIG"):
        environment.pop("TF_CONFIG", None)
        if environment.get("JAX_COORDINATOR_ADDRESS"):
            return Place(*read_jax_variables(environment), *local)
        if sum(tasks) == 1:
            return Place(0, [], *local)
        index = int(environment["SLURM_PROCID"])
        environment["TF_CONFIG"] = tf_config(slurm_addresses(environment, tasks), index)
    return Place(*read_tf_config(environment["TF_CONFIG"]), *local)


def tf_config(workers, index):
    """Return TF_CONFIG for the worker of this index."""
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": workers}, "task": task})


def read_jax_variables(environment):
    """Return (index, addresses) by the variables that Kubeflow's Trainer sets.

    Of the addresses only the first one, the coordinator's, is known.
    """
    names = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
    texts = [environment.get(name, "") for name in names]
    if not all(text.isdigit() for text in texts) or int(texts[1]) >= int(texts[0]):
        refuse(
            "beside JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES must be how many "
            "processes there are, and JAX_PROCESS_ID this one's number, from 0 on"
        )
    processes, index = map(int, texts)
    if processes == 1:
        return 0, []
    check_addresses([environment["JAX_COORDINATOR_ADDRESS"]])
    return index, [environment["JAX_COORDINATOR_ADDRESS"]] + [""] * (processes - 1)


def tasks_of_nodes(environment):
    """Return how many tasks each of Slurm's nodes runs: [2, 2, 2, 1] for "2(x3),1"."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    tasks = []
    for each, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        tasks += [int(each)] * int(times or 1)
    return tasks


PORTS_OF_A_JOB = 32
MOST_LOCAL_WORKERS = 64


def slurm_addresses(environment, tasks):
    """Return an address for each task; jobs on one node get different ports.

    Each job has 32 ports from 12000 on; after 625 jobs they come again. Should another
    program have one of them, `check_port` says so.
    """
    if max(tasks) > PORTS_OF_A_JOB:
        refuse(
            f"{max(tasks)} tasks on a node, and a job has {PORTS_OF_A_JOB} ports "
            "there: use fewer tasks, with more CPUs or GPUs each"
        )
    command = ["scontrol", "show", "hostnames", environment["SLURM_STEP_NODELIST"]]
    nodes = subprocess.check_output(command, text=True, timeout=60).split()
    first = 12000 + int(environment["SLURM_JOB_ID"]) % 625 * PORTS_OF_A_JOB
    addresses = []
    for node, on_node in zip(nodes, tasks, strict=True):
        addresses += [f"{node}:{first + local}" for local in range(on_node)]
    return addresses


def read_tf_config(text):
    """Return (index, addresses of all workers) of TF_CONFIG; a chief comes first."""
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster") or {}, config.get("task") or {}
        roles = {role: list_of_addresses(named) for role, named in cluster.items()}
        role = task.get("type", "worker")
    except (ValueError, AttributeError, TypeError):
        refuse(
            'TF_CONFIG must be {"cluster": {"worker": ["host:port", …]}, '
            '"task": {"type": "worker", "index": …}}, as JSON'
        )
    chiefs, workers = roles.pop("chief", []), roles.pop("worker", [])
    if role == "evaluator":
        refuse("TF_CONFIG makes this an evaluator, and the workers validate themselves")
    others = set(roles) - {"evaluator"} | ({role} - {"chief", "worker"})
    if others:
        refuse(
            f"TF_CONFIG names {', '.join(sorted(others))}: only chief and worker train"
        )
    addresses = chiefs + workers
    if not addresses:
        return 0, []
    check_addresses(addresses)
    if len(addresses) > 1 and not task:
        refuse(
            f"TF_CONFIG names {len(addresses)} workers, and not which one this is: "
            'add "task": {"type": "worker", "index": …}'
        )
    index = task.get("index", 0)
    of_role = chiefs if role == "chief" else workers
    if str(index) not in map(str, range(len(of_role))):
        refuse(f"TF_CONFIG: {role} {index!r} is not among its {len(of_role)} {role}s")
    return int(index) + (len(chiefs) if role == "worker" else 0), addresses


def list_of_addresses(named):
    """Return the addresses of a role; raise TypeError if they are no list of texts."""
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise TypeError
    return named


def check_addresses(addresses):
    """Refuse addresses that no cluster can have."""
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            refuse(f"the address {address!r} must be host:port, with a port to 65535")
        if addresses.count(address) > 1:
            refuse(f"two workers have the address {address}: each needs its own")
    own = [address for address in addresses if LOOPBACK.match(host_of(address))]
    if own and len(own) < len(addresses):
        refuse(
            f"{own[0]} leads each machine to itself, and the other workers are "
            "elsewhere: write the address at which they reach this one"
        )


LOOPBACK = re.compile(r"localhost$|127\.|::1$")


def host_of(address):
    """Return the host of "host:port"; that of "[::1]:20111" is "::1"."""
    return address.rpartition(":")[0].strip("[]")


def check_port(place, backend):
    """Refuse a port of this process's own that another program has.

    On JAX only the first process's address is used.
    """
    address = place.workers[place.index] if place.workers else ""
    if not address or (backend == "jax" and place.index):
        return
    port = address.rpartition(":")[2]
    until = time.monotonic() + PORT_SECONDS
    while not is_free(int(port)):
        if time.monotonic() > until:
            refuse(
                f"port {port} of this machine is taken by another program (a worker of "
                "an earlier start, or of the same index, or another training): end it, "
                "or choose another port"
            )
        time.sleep(0.2)


def is_free(port):
    """Return whether a program of this machine can listen at this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def check_own_name(workers):
    """Refuse a name of this machine that leads to this machine alone.

    Debian writes it so into /etc/hosts. gloo, by which JAX's processes exchange on
    CPUs, tells the others to connect to what this machine's own name leads to.
    """
    hosts = [host_of(address) for address in workers]
    if len(set(hosts)) < 2 or LOOPBACK.match(hosts[0]):
        return  # all processes are on one machine
    name = socket.gethostname()
    try:
        leads_to = socket.gethostbyname(name)
    except OSError:
        refuse(
            f"this machine's own name, {name}, is not found, and the others would look "
            "for it: write it into /etc/hosts, with the address they reach it at"
        )
    if leads_to.startswith("127."):
        refuse(
            f"this machine's own name, {name}, leads to {leads_to}, where the others "
            "would look for it: in /etc/hosts give it the address they reach it at"
        )


# How workers meet, before TensorFlow or JAX wait for them: TensorFlow waits without
# end, and meanwhile nothing but SIGKILL ends it.


def meet(place, backend, seconds):
    """Return when all workers are there, at the addresses that they are said to have.

    All come to the first worker's port. It lets nobody go before everybody has come;
    then the port is free for TensorFlow or JAX. If one does not come in so many
    seconds, all end with a sentence that names it.
    """
    until = time.monotonic() + seconds
    needs_all = backend == "tensorflow"  # on JAX only the first one's port is used
    with contextlib.ExitStack() as stack:
        if place.index == 0:
            Reception(place, needs_all).wait(until, seconds)
            return
        if needs_all:  # the first worker looks whether it reaches this one
            stack.enter_context(listen_at(place.workers[place.index]))
        while True:
            reply = ask_first_worker(place, until)
            if reply == ALL_ARE_HERE:
                return
            if reply.startswith(SAYS):
                why = reply.removeprefix(SAYS)
                raise SystemExit(f"train.py: the first worker says: {why}")
            end_if_interrupted()
            if time.monotonic() > until:
                raise SystemExit(f"train.py: {why_nobody_goes(reply, place, seconds)}")
            time.sleep(RETRY_SECONDS)


def why_nobody_goes(reply, place, seconds):
    """Say why a worker has waited in vain, by the first worker's last reply."""
    first = f"{place.workers[0]}, the first worker's address"
    if reply == NO_VERDICT:
        return (
            f"in {seconds:g} seconds the first worker, at {place.workers[0]}, has let "
            "nobody go: it says which workers have not come"
        )
    who = "another program" if reply else "nobody"
    return (
        f"in {seconds:g} seconds {who} has answered at {first}: is it started, is the "
        "address its own, does a firewall let this machine in, does a worker of an "
        "earlier start still run there?"
    )


LONGEST_LINE = 4096
NO_VERDICT = "it is there, and has not answered"
SAYS = "train.py: "
"""What the first worker's answers begin with; other programs' do not."""
ALL_ARE_HERE = f"{SAYS}all are here"


def listen_at(address):
    """Return a socket that listens at the port of this address, for IPv4 and IPv6."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    port = int(address.rpartition(":")[2])
    return socket.create_server(("", port), family=family, dualstack_ipv6=both)


def connect(address):
    """Return a connection to this address; raise OSError if there is none."""
    port = int(address.rpartition(":")[2])
    connection = socket.create_connection((host_of(address), port), timeout=2)
    if connection.getsockname() == connection.getpeername():
        # Nobody listens, and the system has given this end the very same port.
        connection.close()
        raise ConnectionRefusedError
    return connection


def ask_first_worker(place, until):
    """Come to the first worker; return its answer.

    It is "" where nobody is there, or goes away; NO_VERDICT if it has not answered in
    time.
    """
    try:
        with connect(place.workers[0]) as connection:
            introduction = {"worker": place.index, "workers": len(place.workers)}
            connection.sendall(json.dumps(introduction).encode() + b"\n")
            # The first worker keeps it open until all are here.
            return read_line(connection, until + PEERS_SECONDS)
    except TimeoutError:
        return NO_VERDICT
    except OSError:
        return ""


def read_line(connection, until):
    """Return a line that comes, or what there is of it at a certain time.

    Raise TimeoutError if nothing has come by then.
    """
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST_LINE:
        left = max(0.1, until - time.monotonic())
        connection.settimeout(min(left, RETRY_SECONDS))
        try:
            more = connection.recv(1024)
        except TimeoutError:
            end_if_interrupted()
            if time.monotonic() < until:
                continue
            if not line:
                raise
            more = b""
        if not more:
            break
        line += more
    return line.decode(errors="replace").strip()


class Reception:
    """The first worker's: who has come, and whether it is reached at its address.

    needs_all: whether all workers' addresses are used, or the first one's alone.
    """

    def __init__(self, place, needs_all):
        self.place, self.needs_all = place, needs_all
        self.here, self.unreached = {}, set()

    def wait(self, until, seconds):
        """Let all workers go when all are here; end all if one does not come."""
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(listen_at(self.place.workers[0]))
            own.settimeout(RETRY_SECONDS)
            while not self.complete():
                end_if_interrupted()
                if time.monotonic() > until:
                    self.end_all(self.who_is_missing(seconds))
                # Who comes may also go again at once.
                with contextlib.suppress(TimeoutError, ConnectionAbortedError):
                    connection, _ = own.accept()
                    if self.welcome(connection):
                        stack.enter_context(connection)
                    else:
                        connection.close()
                self.look_around(until)
            own.close()  # the port is TensorFlow's or JAX's now
            self.tell_all(ALL_ARE_HERE)

    def complete(self):
        return len(self.here) == len(self.place.workers) - 1 and not self.unreached

    def welcome(self, connection):
        """Note which worker has come; return whether it is one of this training."""
        try:
            words = json.loads(read_line(connection, time.monotonic() + 2))
            index, workers = words["worker"], words["workers"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        expected = len(self.place.workers)
        why = ""
        if workers != expected or index not in range(1, workers):
            why = (
                f"it expects {expected} workers, and worker {index} expects {workers}: "
                "give all the same addresses"
            )
        elif index in self.here and is_open(self.here[index]):
            why = f"two processes say that they are worker {index}"
        if why:
            answer(connection, why)
            self.end_all(why)
        self.here[index] = connection
        if self.needs_all:
            self.unreached.add(index)
        return True

    def look_around(self, until):
        """Forget who has gone; see who is reached at the address it should have."""
        self.here = {i: each for i, each in self.here.items() if is_open(each)}
        self.unreached &= set(self.here)
        for index in list(self.unreached):
            if time.monotonic() > until:
                return
            with contextlib.suppress(OSError):
                connect(self.place.workers[index]).close()
                self.unreached.discard(index)

    def tell_all(self, words):
        for connection in self.here.values():
            answer(connection, words)

    def end_all(self, why):
        self.tell_all(why)
        raise SystemExit(f"train.py: {why}")

    def who_is_missing(self, seconds):
        """Say which workers have not come, or are not reached where they should be."""
        absent, elsewhere = [], []
        for index, address in enumerate(self.place.workers[1:], start=1):
            name = f"worker {index}"
            if address:
                name += f" ({address})"
            if index not in self.here:
                absent.append(name)
            elif index in self.unreached:
                elsewhere.append(name)
        sentences = []
        if absent:
            sentences.append(
                f"in {seconds:g} seconds these have not come: {', '.join(absent)}; are "
                f"they started, each with its own index, and do they reach "
                f"{self.place.workers[0]}?"
            )
        if elsewhere:
            sentences.append(
                f"these have come, and are not reached at {', '.join(elsewhere)}: is "
                "the address their own, does a firewall let this machine in?"
            )
        return " ".join(sentences)


def answer(connection, words):
    """Send a line to a worker that waits for it."""
    with contextlib.suppress(OSError):
        connection.sendall(f"{SAYS}{words.removeprefix(SAYS)}\n".encode())


def is_open(connection):
    """Return whether the other end of a connection, which says nothing, is there."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


@functools.cache
def gpus_of_machine():
    """Return the names of all GPUs of this machine."""
    if not shutil.which("nvidia-smi"):
        return ()
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        refuse("nvidia-smi does not answer: is a GPU of this machine broken?")
    return tuple(re.findall(r"^GPU (\d+):", listed.stdout, re.MULTILINE))


def visible_gpus(environment):
    """Return the names of the GPUs that CUDA shows to this process."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        names = environment["CUDA_VISIBLE_DEVICES"].split(",")
        return [name for name in names if name not in ("", "-1", "NoDevFiles")]
    return list(gpus_of_machine())


def own_gpus(visible, place, on_node):
    """Return those of the visible GPUs that are this process's own.

    on_node: how many GPUs of this node the job has (SLURM_GPUS_ON_NODE). A process
    that sees fewer has been given them by Slurm; else the node's processes share.
    """
    if place.local_count == 1 or not visible:
        return visible
    if len(visible) < on_node:
        if len(visible) * place.local_count > on_node:
            refuse(
                f"Slurm shows this task {len(visible)} of {on_node} GPUs, and the "
                f"node's {place.local_count} tasks share some: use --gpus-per-task"
            )
        return visible
    if len(visible) % place.local_count:
        refuse(
            f"{len(visible)} GPUs for {place.local_count} tasks of this node: each "
            "must have the same number"
        )
    return visible[place.local_index :: place.local_count]


def choose_gpus(place, environment):
    """Let CUDA show this process its own GPUs only, before a library looks for them."""
    visible = visible_gpus(environment)
    on_node = int(environment.get("SLURM_GPUS_ON_NODE", len(visible)))
    own = own_gpus(visible, place, on_node)
    if own != visible:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    used = len(own) * place.local_count
    if used < on_node and not place.local_index:
        say(f"{used} of the {on_node} GPUs of this machine's job are used")
    return own


def refuse_an_idle_gpu(library, package, allow_cpu):
    """End where a GPU is in the machine, and the library does not use it."""
    there = shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia")
    if there and not allow_cpu:
        refuse(f"{library} does not use the GPU here: install {package} (--allow-cpu)")


# The backends


class OnJax:
    """Keras on JAX, in one process or several: `fit` trains on all their devices."""

    def __init__(self, place, options):
        if options.logical_cpus:
            flag = f" --xla_force_host_platform_device_count={options.logical_cpus}"
            os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flag
            os.environ["JAX_PLATFORMS"] = "cpu"
        # A tf.data.Dataset brings TensorFlow, which must leave the GPU's memory to JAX.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        import jax
        import keras

        self.processes = len(place.workers) or 1
        self.index = place.index
        if self.processes > 1:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            jax.distributed.initialize(
                coordinator_address=place.workers[0],
                num_processes=self.processes,
                process_id=place.index,
                # Else JAX takes one GPU for each of Slurm's tasks.
                cluster_detection_method="deactivate",
            )
        if jax.default_backend() == "cpu" and not options.logical_cpus:
            refuse_an_idle_gpu("JAX", "jax[cuda12]", options.allow_cpu)
        self.local_replicas = jax.local_device_count()
        self.replicas = jax.device_count()
        if self.replicas != self.local_replicas * self.processes:
            refuse(
                f"this process has {self.local_replicas} of {self.replicas} devices: "
                "all processes must have the same number"
            )
        kind = jax.default_backend().upper()
        self.kind = "simulated CPU" if options.logical_cpus else kind
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )

    def scope(self):
        return contextlib.nullcontext()

    def gather(self, array):
        """Return the arrays of all processes, one below the other."""
        if self.processes == 1:
            return array[None]
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(array)

    def copies(self, variable):
        """Return the values that this process's replicas have of a variable."""
        import numpy as np

        return [np.asarray(shard.data) for shard in variable.value.addressable_shards]

    def before_reading(self, model):
        """Let the model's variables hold what `fit` keeps elsewhere meanwhile."""
        if hasattr(model, "_jax_state"):
            model.jax_state_sync()

    def peak_memory(self):
        """Return the bytes that the first device had in use at most, if it says so."""
        import jax

        statistics = jax.local_devices()[0].memory_stats() or {}
        return statistics.get("peak_bytes_in_use")


class OnTensorFlow:
    """Keras on TensorFlow: one process by `fit`, several by `ByHand`."""

    def __init__(self, place, options):
        import tensorflow as tf

        self.processes = len(place.workers) or 1
        self.index = place.index
        self.simulated = bool(options.logical_cpus)
        gpus = [] if options.logical_cpus else tf.config.list_physical_devices("GPU")
        if not gpus and not options.logical_cpus:
            refuse_an_idle_gpu("TensorFlow", "tensorflow[and-cuda]", options.allow_cpu)
        for gpu in gpus:  # take what is needed, not all there is
            tf.config.experimental.set_memory_growth(gpu, True)
        self.strategy = self.create_strategy(tf, gpus, options.logical_cpus)
        self.replicas = self.strategy.num_replicas_in_sync
        self.local_replicas = self.replicas // self.processes
        self.kind = "GPU" if gpus else "simulated CPU" if self.simulated else "CPU"

        @tf.function  # called as it is, it would be traced at each call
        def gather_on_all(values):
            return self.strategy.gather(values, axis=0)

        self.gather_on_all = gather_on_all

    def create_strategy(self, tf, gpus, logical_cpus):
        if self.processes > 1:
            if logical_cpus:
                refuse("--logical-cpus is for one process on TensorFlow, or for JAX")
            return tf.distribute.MultiWorkerMirroredStrategy()
        if logical_cpus:
            cpu = tf.config.list_physical_devices("CPU")[0]
            each = [tf.config.LogicalDeviceConfiguration()] * logical_cpus
            tf.config.set_logical_device_configuration(cpu, each)
        devices = tf.config.list_logical_devices("CPU" if logical_cpus else "GPU")
        if len(devices) < 2:
            return tf.distribute.get_strategy()
        names = [device.name for device in devices]
        # TensorFlow's own choice on CPUs fails with several steps in one call.
        simple = tf.distribute.ReductionToOneDevice() if logical_cpus else None
        return tf.distribute.MirroredStrategy(names, simple)

    def scope(self):
        return self.strategy.scope()

    def gather(self, array):
        """Return the arrays of all processes, one below the other."""
        if self.processes == 1:
            return array[None]
        import tensorflow as tf

        def own(context):
            return tf.constant(array[None])

        values = self.strategy.experimental_distribute_values_from_function(own)
        gathered = self.gather_on_all(values).numpy()
        return gathered[:: self.local_replicas]

    def copies(self, variable):
        """Return the values that this process's replicas have of a variable."""
        own = self.strategy.experimental_local_results(variable.value)
        return [value.numpy() for value in own]

    def before_reading(self, model):
        pass

    def values_of_replicas(self, variable):
        """Return the values that all replicas have of a variable, as rows."""
        import numpy as np

        gathered = self.gather(np.stack(self.copies(variable)))
        return gathered.reshape(self.replicas, *variable.shape)

    def set_values_of_replicas(self, variable, values):
        """Give each replica of this process its own row of these values."""
        own = self.strategy.experimental_local_results(variable.value)
        first = self.index * self.local_replicas
        for row, copy in enumerate(own, start=first):
            copy.assign(values[row])

    def peak_memory(self):
        """Return the bytes that the first GPU had in use at most, if there is one."""
        import tensorflow as tf

        if not tf.config.list_logical_devices("GPU"):
            return None
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def all_equal(backend, data):
    """Return whether all processes have the same bytes here."""
    import numpy as np

    digest = np.frombuffer(hashlib.sha256(data).digest(), "int32").copy()
    gathered = backend.gather(digest)
    return bool((gathered == gathered[0]).all())


def any_of(backend, flag):
    """Return whether the flag is set in one of the processes."""
    import numpy as np

    return bool(backend.gather(np.array([flag], "int32")).any())


# The data


def seed_everything(seed):
    """Let what reads examples draw the same random numbers in all processes."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(seed)


def is_dataset(part):
    return hasattr(part, "element_spec")


STRINGS = (
    "examples() returns strings, which JAX and several replicas cannot take: encode "
    "them there, by TextVectorization or StringLookup in the dataset's map, say"
)
STRING_TARGETS = (
    "examples() returns strings as targets, and a loss takes numbers: encode them "
    "there, by StringLookup or numpy.unique(…, return_inverse=True), say"
)


def check_tensors(dataset):
    """Refuse a dataset of what is no plain tensor."""
    import keras

    for spec in keras.tree.flatten(dataset.element_spec):
        kind = type(spec).__name__
        if kind != "TensorSpec":
            refuse(
                f"examples() returns a dataset with a {kind.removesuffix('Spec')}: "
                "make it a plain tensor (tf.sparse.to_dense, ragged.to_tensor)"
            )
        if spec.dtype.name == "string" and keras.backend.backend() == "jax":
            refuse(STRINGS)


def as_arrays(part):
    """Return (inputs, targets[, weights]) with arrays in it, and no lists."""
    import keras
    import numpy as np

    def refuse_it(found):
        refuse(
            "examples() must return (inputs, targets) or (inputs, targets, weights) of "
            "arrays or as a tf.data.Dataset, to train on and to validate with, and "
            f"there is {found}"
        )

    def array(leaf):
        if not getattr(leaf, "shape", ()):
            refuse_it(type(leaf).__name__)
        return np.asarray(leaf)

    if not isinstance(part, (tuple, list)) or len(part) not in (1, 2, 3):
        size = f" of {len(part)}" if isinstance(part, (tuple, list)) else ""
        refuse_it(f"{type(part).__name__}{size}")

    return keras.tree.map_structure(array, keras.tree.lists_to_tuples(part))


def rows_of(batch, rows):
    """Return these rows of all arrays of a batch."""
    import keras

    return keras.tree.map_structure(lambda array: array[rows], batch)


def size_of(batch):
    """Return how many examples a batch has."""
    import keras

    return len(keras.tree.flatten(batch)[0])


def fingerprint(part):
    """Return a number that all examples decide together, whatever their order."""
    import keras
    import numpy as np

    batches = batched(part, 256) if is_dataset(part) else [part]
    total = 0
    for batch in batches:
        arrays = [np.asarray(array) for array in keras.tree.flatten(batch)]
        for row in range(len(arrays[0])):
            content = b"".join(contents(array[row]) for array in arrays)
            total += int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    return total


def batched(dataset, size):
    """Yield a dataset's batches, or refuse examples that cannot be one batch."""
    import tensorflow as tf

    try:
        yield from dataset.batch(size).prefetch(2).as_numpy_iterator()
    except tf.errors.FailedPreconditionError as problem:
        if "expected to contain" not in str(problem):
            raise
        refuse(
            "a dataset of examples() has another number of examples than it says (in "
            "the program of notebook 06: dataset(1) must return batches of 1, by "
            ".batch(batch_size))"
        )
    except tf.errors.InvalidArgumentError as problem:
        if "Cannot batch tensors with different shapes" not in str(problem):
            raise
        refuse(
            "examples() returns examples of different shapes: bring them to one, by "
            "cutting and padding each (if they are batches, and not single examples: "
            "add .unbatch())"
        )


def contents(array):
    """Return the bytes of an array; those of an object array are other objects'."""
    import numpy as np

    array = np.ascontiguousarray(array)
    return repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()


BINARY = "binary"


def tell_of_what_is_not_finite(part):
    """Say whether arrays have NaN or infinite numbers, which most models learn not."""
    import keras
    import numpy as np

    names = "inputs", "targets", "weights"
    for name, arrays in zip(
        names, keras.utils.unpack_x_y_sample_weight(part), strict=True
    ):
        leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
        floats = [leaf for leaf in leaves if np.asarray(leaf).dtype.kind == "f"]
        if not all(np.isfinite(leaf).all() for leaf in floats):
            say(f"the {name} of examples() have NaN or infinite numbers in them")


UNREADABLE = (
    EOFError,
    IsADirectoryError,
    LookupError,
    NotADirectoryError,
    PermissionError,
    UnicodeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
"""What reading a file raises that is not what `examples` expects."""


class Data:
    """What `examples` returns: batches of all processes' examples, and their digest.

    buffer: bytes for shuffling datasets.
    """

    def __init__(self, path, batch_size_per_replica, replicas, buffer):
        self.path = path
        self.classes = []
        self.batch_size = batch_size = batch_size_per_replica * replicas
        # One seed at every start: else a split drawn at random would be another one.
        self.training: typing.Any
        self.validation: typing.Any
        self.training, self.validation = self.ask(FIRST_SEED)
        self.counts = [self.count(part) for part in (self.training, self.validation)]
        self.buffer = self.counts[0]
        self.steps = self.counts[0] // batch_size
        if not self.steps:
            refuse(self.too_few(batch_size, batch_size_per_replica))
        if is_dataset(self.training):
            self.buffer = self.buffer_size(buffer)
            self.check_split()
        if not self.counts[1]:
            refuse("examples() returns nothing to validate with")

    def too_few(self, batch_size, batch_size_per_replica):
        """Say what to do about fewer examples than a batch has."""
        remedy = "lower --batch-size-per-replica"
        if batch_size_per_replica == 1:
            remedy = "train on fewer devices, or with more examples"
        if is_dataset(self.training):
            remedy += " (or are they batches? add .unbatch())"
        return (
            f"{self.counts[0]} examples do not fill a batch of {batch_size}: {remedy}"
        )

    def check_split(self):
        """Refuse a split that each epoch would draw anew, and so train on tests."""
        _, other = self.ask(FIRST_SEED + 1)
        if fingerprint(self.validation) != fingerprint(other):
            refuse(
                "examples() draws what to validate with at random, and would draw it "
                "anew in each epoch: give the split, or what shuffles before it, its "
                "own seed"
            )

    def ask(self, seed):
        """Return what `examples` returns when it draws with this seed."""
        had_tensorflow = "tensorflow" in sys.modules
        seed_everything(seed)
        parts = self.two_parts()
        if not had_tensorflow and any(map(is_dataset, parts)):
            seed_everything(seed)  # TensorFlow's too, which examples() has imported
            parts = self.two_parts()
        return [part if is_dataset(part) else as_arrays(part) for part in parts]

    def two_parts(self) -> typing.Any:
        """Return what `examples` returns, if it is two of something."""
        if self.path and self.path.startswith("~"):
            self.path = os.path.expanduser(self.path)
        try:
            parts = examples(self.path)
        except FileNotFoundError as problem:
            if self.path and not os.path.exists(self.path):
                refuse(f"--data {self.path}: there is no such file or folder")
            raise problem
        except UNREADABLE as problem:
            if not self.path:
                raise problem
            traceback.print_exc()
            what = (str(problem) or type(problem).__name__).splitlines()[0]
            refuse(
                f"examples() cannot read --data {self.path} ({what}): name a file of "
                "the kind that it reads, or change examples()"
            )
        if parts is None:
            refuse(
                "examples() returns nothing: is return training, validation missing?"
            )
        if not isinstance(parts, (tuple, list)) or len(parts) != 2:
            refuse(
                "examples() must return two: what to train on, what to validate with"
            )
        return parts

    def count(self, part):
        """Return how many examples there are, which may mean to read them all once."""
        import keras

        if is_dataset(part):
            check_tensors(part)
        if not is_dataset(part):
            lengths = sorted({len(array) for array in keras.tree.flatten(part)})
            if len(lengths) > 1:
                refuse(f"examples() returns arrays of different lengths: {lengths}")
            return lengths[0]
        known = int(part.cardinality())
        if known == -1:
            refuse("examples() returns a dataset without an end: leave out .repeat()")
        if known >= 0:
            return known
        say("a dataset of examples() does not say its length: it is read once to count")
        return sum(1 for _ in part)

    def check_labels(self, classes):
        """Refuse labels that are no class: of arrays now, of datasets when they come.

        classes: what `classes_of_targets` has returned.
        """
        self.classes = classes
        for part in self.training, self.validation:
            if not is_dataset(part):
                self.check_batch(part)
                tell_of_what_is_not_finite(part)

    def check_batch(self, batch):
        """Return a batch whose labels are all classes, or refuse it."""
        import keras
        import numpy as np

        if not any(self.classes):
            return batch
        _, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)
        each = zip(self.classes, keras.tree.flatten(targets), strict=True)
        for known, labels in each:
            if not known:
                continue
            number, ignored = known
            labels = np.asarray(labels)
            if number == BINARY:
                wrong = labels[(labels < 0) | (labels > 1)]
                remedy = "a binary loss takes 0 to 1: use another loss"
            else:
                is_no_class = (labels < 0) | (labels >= number)
                wrong = labels[is_no_class | (labels != np.floor(labels))]
                remedy = (
                    f"the model has {number} outputs, for the labels 0 to "
                    f"{number - 1}: change one of them"
                )
            wrong = wrong[wrong != ignored] if ignored is not None else wrong
            if len(wrong):
                refuse(f"examples() returns the label {wrong[0]}, and {remedy}")
        return batch

    def first_example(self):
        """Return a batch that has the first training example alone."""
        if is_dataset(self.training):
            return next(self.training.batch(1).take(1).as_numpy_iterator())
        return rows_of(self.training, [0])

    def buffer_size(self, memory):
        """Return how many examples like the first one fit into so many bytes."""
        import keras

        arrays = keras.tree.flatten(next(self.training.take(1).as_numpy_iterator()))
        size = sum(getattr(array, "nbytes", len(str(array))) for array in arrays)
        return max(1, min(self.counts[0], int(memory // max(1, size))))

    def batches(self, epoch, part=0, parts=1):
        """Yield the full batches of an epoch, in an order that its number decides.

        part, parts: of each batch, the `part`-th of so many equal shares.
        """
        if is_dataset(self.training):
            for batch in self.batches_of_dataset(epoch):
                yield share(batch, part, parts)
            return
        import numpy as np

        order = np.random.RandomState(epoch).permutation(self.counts[0])
        own = self.batch_size // parts
        for step in range(self.steps):
            start = step * self.batch_size + part * own
            yield rows_of(self.training, order[start : start + own])

    def batches_of_dataset(self, epoch):
        """Yield batches of a dataset that is made anew, with the epoch's own seeds."""
        training: typing.Any
        training, _ = self.ask(FIRST_SEED + 1 + epoch)
        shuffled = training.shuffle(
            self.buffer, seed=epoch, reshuffle_each_iteration=False
        )
        # Where examples are left out at random, some epochs have fewer than the first.
        enough = shuffled.repeat().take(self.steps * self.batch_size)
        yield from map(self.check_batch, batched(enough, self.batch_size))

    def validation_batches(self):
        """Yield batches of what to validate with; the last one may be smaller."""
        if is_dataset(self.validation):
            batches = batched(self.validation, self.batch_size)
            yield from map(self.check_batch, batches)
            return
        for start in range(0, self.counts[1], self.batch_size):
            yield rows_of(self.validation, slice(start, start + self.batch_size))

    def digest(self, epoch):
        """Return a digest of the first batches: the same in all processes."""
        import keras

        digest = hashlib.sha256(json.dumps(self.counts).encode())
        for batches in self.batches(epoch), self.validation_batches():
            for array in keras.tree.flatten(next(batches)):
                digest.update(contents(array))
        return digest.digest()


def share(batch, index, count):
    """Return the rows of a batch that the `index`-th of `count` equal parts has."""
    own = size_of(batch) // count
    return rows_of(batch, slice(index * own, (index + 1) * own))


class Shares:
    """One process's part of an epoch's batches.

    first: the step of the epoch to begin with. limit: how many steps at most.
    """

    def __init__(self, data, backend, epoch, first=0, limit=None):
        self.data, self.backend, self.epoch, self.first = data, backend, epoch, first
        self.steps = min(data.steps - first, limit or data.steps)

    def __iter__(self):
        place = self.backend.index, self.backend.processes
        batches = self.data.batches(self.epoch, *place)
        yield from itertools.islice(batches, self.first, self.first + self.steps)

    def for_keras(self):
        """Return what `fit` takes."""
        return for_keras(lambda: iter(self), self.steps)


def for_keras(generate, steps):
    """Return `steps` batches, which calling `generate` yields, as what Keras takes."""
    import keras

    if keras.backend.backend() == "tensorflow":
        return as_dataset(generate, steps)

    class Sequence(keras.utils.PyDataset):
        """Batches in their order; asked for an earlier one, it begins anew."""

        position, iterator = 0, None

        def __len__(self):
            return steps

        def __getitem__(self, step):
            if self.iterator is None or step < self.position:
                self.position, self.iterator = 0, generate()
            while self.position < step:
                next(self.iterator)
                self.position += 1
            self.position += 1
            return next(self.iterator)

    return Sequence()


RAISED: list[BaseException] = []
"""What reading has raised within TensorFlow, which makes another error of it."""


def as_dataset(generate, steps):
    """Return what calling `generate` yields as a `tf.data.Dataset` of known length."""
    import keras
    import numpy as np
    import tensorflow as tf

    def spec(array):
        array = np.asarray(array)
        kind = tf.string if array.dtype.kind in "OSU" else array.dtype
        return tf.TensorSpec((None, *array.shape[1:]), kind)

    def generate_or_keep():
        try:
            yield from generate()
        except (Exception, SystemExit) as problem:
            RAISED.append(problem)
            raise problem

    first = next(generate())
    dataset = tf.data.Dataset.from_generator(
        generate_or_keep, output_signature=keras.tree.map_structure(spec, first)
    )
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread can hold up the end of an iterator
    known = tf.data.experimental.assert_cardinality(steps)
    return dataset.take(steps).apply(known).prefetch(2).with_options(options)


# The model


def create_model(options, backend, data):
    """Return the model of build(), with the options' learning rate and clipping."""
    import keras

    keras.utils.set_random_seed(0)  # the same weights at the start of all processes
    if options.precision:
        keras.config.set_dtype_policy(options.precision)
    batch = rows_of(next(data.validation_batches()), slice(0, 1))
    with backend.scope():
        model = build()
        if model is None:
            refuse("build() returns nothing: is return model missing?")
        if not getattr(model, "compiled", False):
            refuse("build() must return a compiled model: call model.compile(…)")
        if not model.built:  # a subclass, whose weights are made when it is called
            inputs, *_ = keras.utils.unpack_x_y_sample_weight(batch)
            model(inputs)
        if not model.trainable_variables:
            refuse("build() returns a model without trainable weights")
        check_targets(model, batch)
        for one in batch, data.first_example():
            check_strings(model, one, backend)
            check_inputs(model, one)
            check_shapes_of_targets(model, one)
        check_loss(model, batch, backend)
        data.check_labels(classes_of_targets(model, batch))
        check_steps(model.optimizer, options, data)
        check_train_step(model, backend)
        drop_or_refuse_what_fails(model, backend)
        set_accumulation(model.optimizer, options.accumulate, backend)
        set_learning_rate(model.optimizer, options)
        set_clipping(model.optimizer, options.clip_norm, backend)
        model.optimizer.build(model.trainable_variables)
    tell_of_layers(model, backend)
    return model


def check_targets(model, batch):
    """Refuse targets that no loss looks at: on JAX, Keras would train in silence."""
    import keras

    _, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)
    uses_none = model.loss is None and targets is not None
    if uses_none and not any(
        map(is_of_the_reader, [model.train_step, model.compute_loss])
    ):
        refuse(
            "build() compiles the model without a loss, and examples() returns "
            "targets: add loss=… to compile, or leave out the targets where layers "
            "add what is to be minimized (add_loss, regularizers)"
        )


def check_strings(model, batch, backend):
    """Refuse strings where they cannot be taken."""
    import keras
    import numpy as np

    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)

    def has_strings(part):
        leaves = [leaf for leaf in keras.tree.flatten(part) if leaf is not None]
        arrays = [
            array for array in map(np.asarray, leaves) if array.dtype.kind in "OSU"
        ]
        for array in arrays:
            if array.dtype.kind == "O" and not isinstance(array.flat[0], (str, bytes)):
                refuse(
                    "examples() returns an array of Python objects: give it a type, by "
                    '.astype("float32") or .astype("int64")'
                )
        return bool(arrays)

    if has_strings(targets) and not is_of_the_reader(model.train_step):
        refuse(STRING_TARGETS)
    one_device = backend.replicas == 1 and not isinstance(backend, OnJax)
    if has_strings([inputs, targets]) and not one_device:
        refuse(STRINGS)


def check_inputs(model, batch):
    """Refuse inputs of another shape than the model takes."""
    import keras
    import numpy as np

    inputs, *_ = keras.utils.unpack_x_y_sample_weight(batch)
    given = [np.asarray(array) for array in keras.tree.flatten(inputs)]
    taken = getattr(model, "inputs", None) or []  # a subclass does not say
    if len(given) != len(taken):
        return
    for array, tensor in zip(given, taken, strict=True):
        shape, needed = array.shape[1:], tuple(tensor.shape[1:])
        if fits(shape, needed):
            continue
        remedy = "change one of them"
        if len(shape) == len(needed) + 1:
            remedy = "if they are batches, and not single examples, add .unbatch()"
        refuse(
            f"examples() returns inputs of shape {shape}, and the model takes "
            f"{needed}: {remedy}"
        )


def fits(shape, needed):
    """Return whether a model whose `Input` has the second shape takes the first."""
    if len(shape) == len(needed):
        pairs = zip(shape, needed, strict=True)
        return all(want in (None, size) for size, want in pairs)
    # Keras itself removes a last dimension of 1 that a model does not have, and adds
    # one that it has; 1 as the only dimension is none to remove.
    if len(shape) == len(needed) + 1:
        return shape[-1] == 1 and needed[-1:] != (1,)
    return len(shape) == len(needed) - 1 and needed[-1] == 1


SAME_SHAPE = (
    "binarycrossentropy",
    "categoricalcrossentropy",
    "huber",
    "kldivergence",
    "logcosh",
    "meanabsoluteerror",
    "meansquarederror",
    "poisson",
)
"""Losses of Keras whose targets have the shape of the outputs, by name."""


def check_shapes_of_targets(model, batch):
    """Refuse targets that Keras would compare with outputs of another shape."""
    import keras
    import numpy as np

    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)
    by_name = typing.cast(typing.Any, targets)
    both = isinstance(by_name, dict) and isinstance(model.loss, dict)
    if both and set(by_name) != set(model.loss):
        refuse(
            f"examples() returns targets {sorted(by_name)}, and compile has losses for "
            f"{sorted(model.loss)}: give them the same names"
        )
    losses = keras.tree.flatten(model.loss)
    outputs = keras.tree.flatten(shapes_of_outputs(model, inputs))
    targets = keras.tree.flatten(targets)
    if not len(losses) == len(outputs) == len(targets):
        return
    for loss, output, target in zip(losses, outputs, targets, strict=True):
        name = kind_of_loss(loss)
        given, made = np.asarray(target).shape[1:], tuple(output.shape[1:])
        sparse = name == "sparsecategoricalcrossentropy"
        if not (sparse or name in SAME_SHAPE):
            continue
        wanted = made[:-1] if sparse else made
        if fits(without_ones(given), without_ones(wanted)):
            continue
        remedy = "change one of them"
        if sparse and len(given) == len(made):
            remedy = "for one-hot targets use CategoricalCrossentropy"
        if name == "categoricalcrossentropy" and len(given) < len(made):
            remedy = "for labels use SparseCategoricalCrossentropy"
        refuse(
            f"examples() returns targets of shape {given}, and the model's output has "
            f"the shape {made}: {remedy}"
        )


def without_ones(shape):
    """Return a shape without last dimensions of 1, which Keras adds and removes."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def kind_of_loss(loss):
    """Return a loss's name in Keras, in lower case and without lines: "huber", say."""
    import keras

    try:
        found: typing.Any = keras.losses.get(loss)
    except ValueError:
        return ""
    if not getattr(found, "__module__", "").startswith("keras."):
        return ""
    name = getattr(found, "__name__", "") or type(found).__name__
    return name.replace("_", "").lower()


def check_steps(optimizer, options, data):
    """Refuse an accumulation that never ends, and tell of such a warm-up."""
    steps = data.steps * options.epochs
    parts = options.accumulate
    if parts > steps and not options.dry_run:
        refuse(
            f"--accumulate {parts}: the training has {steps} steps, so the weights "
            "would never change"
        )
    if options.warm_up_steps > steps and not options.dry_run:
        say(f"--warm-up-steps {options.warm_up_steps}: it ends before, at step {steps}")


def classes_of_targets(model, batch):
    """Return a number of classes for each target, or None where any number is right.

    Such a target is a class's index, by which Keras' sparse cross-entropy takes one of
    the outputs. On a GPU and on JAX it takes a wrong one without an error. Next to the
    number is the one index that the loss leaves out, or None.
    """
    import keras

    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)
    losses = keras.tree.flatten(model.loss)
    outputs = keras.tree.flatten(shapes_of_outputs(model, inputs))
    if not len(losses) == len(outputs) == len(keras.tree.flatten(targets)):
        return []
    found: list[typing.Any] = []
    for loss, output in zip(losses, outputs, strict=True):
        name = loss if isinstance(loss, str) else getattr(loss, "name", None)
        name = name or getattr(loss, "__name__", "")
        is_sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        if type(loss).__name__ == "BinaryCrossentropy" or name == "binary_crossentropy":
            found.append((BINARY, None))
            continue
        if not is_sparse and name != "sparse_categorical_crossentropy":
            found.append(None)
            continue
        axis = getattr(loss, "axis", -1)
        found.append((output.shape[axis], getattr(loss, "ignore_class", None)))
    return found


def shapes_of_outputs(model, inputs):
    """Return the model's outputs for these inputs as `KerasTensor`s: nothing runs."""
    import keras
    import numpy as np

    if getattr(model, "outputs", None):
        return model.outputs

    def symbol(array):
        array = np.asarray(array)
        if array.dtype.kind in "OSU":
            raise TypeError("a string")
        return keras.KerasTensor(array.shape, array.dtype.name)

    try:
        return model.compute_output_spec(keras.tree.map_structure(symbol, inputs))
    except Exception:  # a subclass that can only be called: nothing is known of it
        return []


def inner(optimizer):
    """Return the optimizer that float16's loss scaling wraps, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def check_loss(model, batch, backend):
    """Refuse a loss that replicas of TensorFlow would divide by their own counts."""
    import keras

    if backend.replicas == 1 or isinstance(backend, OnJax):
        return
    inputs, *_ = keras.utils.unpack_x_y_sample_weight(batch)
    outputs = keras.tree.flatten(model(inputs))
    if any(getattr(output, "_keras_mask", None) is not None for output in outputs):
        refuse(
            "the model's outputs are masked, and each replica would divide its loss by "
            "its own number of unmasked steps: use --backend jax"
        )
    for loss in keras.tree.flatten(model.loss):
        if returns_a_scalar(loss, batch, outputs):
            refuse(
                "a loss returns one number for all examples, which each replica would "
                "count in full: return one for each example, or use --backend jax"
            )
        if getattr(loss, "reduction", "") == "mean_with_sample_weight":
            refuse(
                'with reduction="mean_with_sample_weight" each replica would divide '
                "its loss by its own weights: use --backend jax, or another reduction"
            )


def returns_a_scalar(loss, batch, outputs):
    """Return whether a loss has averaged already, by calling it with an output."""
    import keras

    try:
        call: typing.Any = keras.losses.get(loss)
        if isinstance(call, keras.losses.Loss):
            call = call.call
        _, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)
        for target, output in zip(keras.tree.flatten(targets), outputs, strict=True):
            with contextlib.suppress(Exception):  # another output's loss
                return len(call(target, output).shape) == 0
    except (TypeError, ValueError):
        pass
    return False


def check_train_step(model, backend):
    """Refuse a train_step of the reader's in which replicas would add up means.

    Keras' own losses are divided by the number of replicas; a mean is not.
    """
    step = model.train_step
    if (
        backend.replicas == 1
        or isinstance(backend, OnJax)
        or not is_of_the_reader(step)
    ):
        return
    with contextlib.suppress(OSError):  # its source is nowhere
        text = inspect.getsource(step.__func__)
        knows = "compute_loss", "compute_average_loss", "num_replicas", ".train_step("
        if not any(word in text for word in knows):
            refuse(
                "train_step averages by itself, and replicas of TensorFlow would add "
                "up their averages: call self.compute_loss, or divide the loss by tf."
                "distribute.get_strategy().num_replicas_in_sync, or use --backend jax"
            )


def tell_of_layers(model, backend):
    """Say which layers train in another way on several replicas of TensorFlow."""
    import keras

    if backend.replicas == 1 or isinstance(backend, OnJax) or backend.index:
        return
    layers = model._flatten_layers()
    normal = keras.layers.BatchNormalization
    normals = [each for each in layers if isinstance(each, normal)]
    apart = [each.name for each in normals if not each.synchronized]
    if apart:
        say(
            f"{', '.join(apart)}: each replica takes the statistics of its own "
            "examples (synchronized=True takes all)"
        )
    if any(map(draws_numbers, layers)):
        say("random layers (Dropout, …) draw the same numbers on all replicas")


def draws_numbers(layer):
    """Return whether a layer draws random numbers in training.

    An LSTM has a seed for its dropout even where that is 0.
    """
    if not getattr(layer, "_seed_generators", ()):  # its own, not those within it
        return False
    names = "rate", "dropout", "recurrent_dropout", "stddev"
    rates = [getattr(layer, name) for name in names if hasattr(layer, name)]
    return any(rates) if rates else True


def drop_or_refuse_what_fails(model, backend):
    """Leave out what makes steps faster and fails on several replicas of TensorFlow."""
    if backend.replicas == 1 or isinstance(backend, OnJax):
        return
    if (
        inner(model.optimizer).ema_overwrite_frequency
        and inner(model.optimizer).use_ema
    ):
        refuse(
            "ema_overwrite_frequency fails on several replicas of TensorFlow: leave it "
            "out, or use --backend jax"
        )
    if model.jit_compile:
        model.jit_compile = False
        say("jit_compile is left out: on several replicas of TensorFlow it fails")
    if model.run_eagerly and backend.processes > 1:
        say(
            "run_eagerly is left out: several processes of TensorFlow compile their "
            "steps"
        )
    if model.steps_per_execution > 1 and not backend.simulated:
        model.steps_per_execution = 1
        say(
            "steps_per_execution is left out: on several replicas of TensorFlow it "
            "fails"
        )


def set_accumulation(optimizer, batches, backend):
    """Let the optimizer average the gradients of so many batches for an update."""
    if batches > 1:
        inner(optimizer).gradient_accumulation_steps = batches
    several = inner(optimizer).gradient_accumulation_steps or 1
    if several > 1 and backend.replicas > 1 and isinstance(backend, OnTensorFlow):
        refuse(
            "Keras on TensorFlow cannot accumulate gradients on several replicas: use "
            "--backend jax, or a larger --batch-size-per-replica"
        )


def set_learning_rate(optimizer, options):
    """Set the rate of the command line, unless the optimizer has a schedule."""
    if has_schedule(optimizer):
        for option in "learning_rate", "warm_up_steps":
            if getattr(options, option):
                name = "--" + option.replace("_", "-")
                refuse(
                    f"{name}: build() has a schedule for the learning rate; change it"
                )
    elif options.learning_rate:
        optimizer.learning_rate = options.learning_rate


def has_schedule(optimizer):
    """Return whether the learning rate is no variable, but a schedule or a function."""
    return not hasattr(inner(optimizer)._learning_rate, "assign")


def rate_of(optimizer):
    """Return the learning rate as a float; None where a schedule decides."""
    if has_schedule(optimizer):
        return None
    return float(as_array(optimizer.learning_rate))


def set_clipping(optimizer, clip_norm, backend):
    """Clip the gradient of all replicas' examples, as one device would.

    On JAX the optimizer does. On TensorFlow each replica would clip its own gradient
    before they are added up: so they are added up first. What is applied then is added
    up once more, and therefore divided by the number of replicas.

    float16's loss scaling needs the sum first, too: it leaves out a step in which a
    gradient is not finite, and all replicas must leave out the same steps.
    """
    wrapped = inner(optimizer)
    if clip_norm:
        wrapped.clipnorm = wrapped.clipvalue = None
        wrapped.global_clipnorm = clip_norm
    rules = wrapped.clipnorm, wrapped.clipvalue, wrapped.global_clipnorm
    scales = wrapped is not optimizer
    if (
        isinstance(backend, OnJax)
        or backend.replicas == 1
        or not (any(rules) or scales)
    ):
        return
    import tensorflow as tf

    clipnorm, clipvalue, global_clipnorm = rules
    wrapped.clipnorm = wrapped.clipvalue = wrapped.global_clipnorm = None
    apply = optimizer.apply

    def clipped(gradients):
        if clipnorm:
            return [tf.clip_by_norm(gradient, clipnorm) for gradient in gradients]
        if global_clipnorm:
            return tf.clip_by_global_norm(gradients, global_clipnorm)[0]
        if clipvalue:
            return [
                tf.clip_by_value(gradient, -clipvalue, clipvalue)
                for gradient in gradients
            ]
        return gradients

    def apply_clipped(gradients, variables=None):
        context = tf.distribute.get_replica_context()
        scale = optimizer.scale_loss(tf.ones([]))  # float16's; else 1
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
        summed = context.all_reduce("SUM", dense)
        whole = clipped([gradient / scale for gradient in summed])
        factor = scale / context.num_replicas_in_sync
        return apply([gradient * factor for gradient in whole], variables)

    optimizer.apply = apply_clipped


# What is kept in the run folder


class Lease:
    """A training's claim on its run folder: lease.json, renewed while it trains.

    A SIGKILL leaves it behind. On the same machine it is seen at once that its process
    is no more; of another machine's, that nobody renews it (clocks are not compared).
    """

    def __init__(self, folder):
        self.path = folder / "lease.json"
        self.text = {
            "token": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "machine": machine_of_this_process(),
            "started": start_of_process(os.getpid()),
            "renewals": 0,
        }
        self.lost = False
        self.ended = threading.Event()

    def read(self):
        """Return what stands there; None if there is no lease, or a damaged one."""
        for _ in range(3):  # one that is being written is not whole
            try:
                found = json.loads(self.path.read_text())
                if {"token", "renewals"} <= found.keys():
                    return found
            except FileNotFoundError:
                return None
            except (OSError, ValueError, AttributeError):
                pass
            time.sleep(0.2)
        return None

    def take(self):
        """Take the folder, unless another training has it; return whether it did."""
        other = self.read()
        if other and self.is_used(other):
            say(f"{self.path}: process {other.get('process')} on {other.get('host')}")
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        try:
            with open(self.path, "x") as file:
                json.dump(self.text, file)
        except FileExistsError:
            return False  # to a training that has just started
        threading.Thread(target=self.renew, daemon=True).start()
        return True

    def is_used(self, other):
        here = machine_of_this_process()
        if here and other.get("machine") == here:
            started = start_of_process(other.get("process"))
            return bool(started) and started == other.get("started")
        say(
            f"{self.path} names process {other.get('process')} on {other.get('host')}: "
            f"waiting {LEASE_EXPIRES} seconds to see whether it still trains"
        )
        until = time.monotonic() + LEASE_EXPIRES
        while time.monotonic() < until:
            time.sleep(0.5)
            now = self.read()
            if now is None:
                return False
            if (now["token"], now["renewals"]) != (other["token"], other["renewals"]):
                return True
        return False

    def renew(self):
        """Say that this training goes on, until it ends; notice another's claim."""
        while not self.ended.wait(LEASE_RENEWED):
            now = self.read()
            if now and now["token"] != self.text["token"]:
                self.lost = True
                return
            self.text["renewals"] += 1
            new = self.path.with_suffix(f".{self.text['token']}")
            with contextlib.suppress(OSError):  # a file server that is slow
                new.write_text(json.dumps(self.text))
                new.replace(self.path)

    def give_back(self):
        self.ended.set()
        now = self.read()
        if now and now["token"] == self.text["token"]:
            with contextlib.suppress(OSError):
                self.path.unlink()
                self.path.parent.rmdir()  # if nothing else is in it


def machine_of_this_process():
    """Return what only processes that see each other's numbers share; "" if unknown.

    Two containers may have the same host name, and each a process 1.
    """
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def start_of_process(number):
    """Return when a process of this machine has started; "" if it is no more."""
    try:
        text = pathlib.Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return ""
    state, *fields = text.rpartition(")")[2].split()  # its name, in (), may have spaces
    return "" if state in "ZX" else fields[18]


class Checkpoints:
    """Everything that goes on, as arrays in a file that is either whole or not there.

    A file holds the values of all variables, and `facts`: what they are called, how
    many epochs and steps of the next one are done, and what decides how to go on.
    """

    def __init__(self, folder):
        self.folder = folder / "checkpoints"

    def files(self):
        """Return the files there are, the newest one first."""

        return sorted(self.folder.glob("epoch-*.npz"), key=progress_of, reverse=True)

    def save(self, facts, values):
        """Write a new file, and delete older ones.

        facts: a dict for JSON, with "epoch" and "step". values: arrays.
        """
        import numpy as np

        self.folder.mkdir(parents=True, exist_ok=True)
        # NumPy's files know no bfloat16 or float8: their bytes are kept.
        types = [str(value.dtype) for value in values]
        plain = [np.frombuffer(value.tobytes(), "uint8") for value in values]
        shapes = [list(value.shape) for value in values]
        facts = facts | {"types": types, "shapes": shapes}
        text = np.frombuffer(json.dumps(facts).encode(), "uint8")
        path = self.folder / f"epoch-{facts['epoch']:06d}-{facts['step']:08d}.npz"
        new = path.with_suffix(".new")
        with open(new, "wb") as file:
            np.savez(file, text, *plain)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        for other in self.files():
            # A training goes on from the newest one that it can read.
            if progress_of(other) > progress_of(path):
                other.replace(other.with_suffix(".damaged"))
        for old in self.files()[KEPT_CHECKPOINTS:]:
            old.unlink()

    def restore(self):
        """Return (facts, values) of the newest file that can be read, or None."""
        for path in self.files():
            try:
                return self.read(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as why:
                say(f"{path} cannot be read ({why}): it is left out")
        return None

    def read(self, path):
        import keras  # noqa: F401  (brings NumPy the types bfloat16 and float8)
        import numpy as np

        with np.load(io.BytesIO(path.read_bytes())) as file:
            text, *plain = (file[f"arr_{i}"] for i in range(len(file.files)))
        facts = json.loads(text.tobytes())
        if not len(facts["types"]) == len(facts["shapes"]) == len(plain):
            raise ValueError("some arrays are missing")
        values = []
        for data, kind, shape in zip(
            plain, facts["types"], facts["shapes"], strict=True
        ):
            values.append(np.frombuffer(data.tobytes(), kind_of(kind)).reshape(shape))
        return facts, values


def progress_of(path):
    """Return [epoch, step] of a checkpoint's file."""
    return [int(part) for part in re.findall(r"\d+", path.stem)]


def kind_of(name):
    """Return NumPy's type of this name; ml_dtypes has bfloat16 and float8."""
    import numpy as np

    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


class State:
    """The model's and the optimizer's variables: read, set, and described."""

    def __init__(self, model, backend):
        self.model, self.backend = model, backend

    def variables(self):
        return self.model.variables + self.model.optimizer.variables

    def describe(self):
        """Return a line for each variable, the same for every program that makes it."""
        lines = []
        for variable in self.variables():
            path = re.sub(r"_\d+(?=/|$)", "", variable.path)
            lines.append(f"{path} {tuple(variable.shape)} {variable.dtype}")
        return lines

    def apart(self):
        """Return the variables of which each replica has a value of its own.

        On TensorFlow these are the moving statistics of BatchNormalization and the
        like: what a layer assigns to itself, and no optimizer keeps equal. (Not the
        weights of a frozen layer: nobody changes those.)
        """
        if isinstance(self.backend, OnJax) or self.backend.replicas == 1:
            return []
        frozen = {
            id(weight)
            for layer in self.model._flatten_layers()
            for weight in layer._trainable_variables
        }
        return [
            variable
            for variable in self.model.non_trainable_variables
            if "float" in str(variable.dtype) and id(variable) not in frozen
        ]

    def average(self):
        """Give all replicas the average of what each has kept for itself.

        So there is one model to validate with and to save. All processes must call it.
        """
        for variable in self.apart():
            variable.assign(self.backend.values_of_replicas(variable).mean(axis=0))

    def read(self):
        """Return all values, and those of the metrics; all processes must ask together.

        Of a variable that replicas keep apart there is a row for each replica.
        """
        self.backend.before_reading(self.model)
        apart = {id(variable) for variable in self.apart()}
        values = [
            self.backend.values_of_replicas(variable)
            if id(variable) in apart
            else as_array(variable)
            for variable in self.variables()
        ]
        metrics = [as_array(variable) for variable in self.model.metrics_variables]
        return values, metrics

    def set(self, values):
        for variable, value in zip(self.variables(), values, strict=True):
            if value.ndim == len(variable.shape):
                variable.assign(value)
            elif len(value) == self.backend.replicas and self.apart():
                self.backend.set_values_of_replicas(variable, value)
            else:  # saved by another number of replicas
                variable.assign(value.mean(axis=0))

    def differences(self, lines):
        """Return how this model differs from one that was described so, in words."""
        own = self.describe()
        if own == lines:
            return ""
        if len(own) != len(lines):
            return f"{len(lines)} arrays there, and {len(own)} in build()'s model"
        there, here = next(
            pair for pair in zip(lines, own, strict=True) if pair[0] != pair[1]
        )
        return f"{there} there, and {here} in build()'s model"


def as_array(variable) -> typing.Any:
    """Return a variable's value as a NumPy array."""
    import keras
    import numpy as np

    return np.asarray(keras.ops.convert_to_numpy(variable))


class Log:
    """log.csv: a row for each epoch, each metric below its name.

    Its rows are in the checkpoints, too: all processes decide by them when to stop, and
    a file that is cut, changed or gone is written anew.
    """

    def __init__(self, path):
        self.path, self.rows = path, []

    def add(self, epoch, results):
        self.rows.append({"epoch": epoch} | results)

    def forget_after(self, epoch):
        self.rows = [row for row in self.rows if int(row["epoch"]) <= epoch]

    def write(self):
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        new = self.path.with_suffix(".new")
        with open(new, "w", newline="") as file:
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        new.replace(self.path)

    def epochs_since_best(self):
        """Return how many epochs ago the validation loss was lowest."""
        losses = [row.get("val_loss", "") for row in self.rows]
        losses = [float(loss) for loss in losses if loss != ""]
        losses = [math.inf if math.isnan(loss) else loss for loss in losses]
        if not losses:
            return 0
        return len(losses) - 1 - losses.index(min(losses))


class Saved(Exception):
    """A signal has come, and everything is saved."""


# Training


class Validation:
    """Counts every example once, whatever the number of replicas.

    What can be divided by the number of replicas is evaluated by all of them. Of the
    few examples that are left, every replica gets each: so no replica is without one,
    and what the metrics have added up for them is divided by the number of replicas.
    (Keras' metrics are such sums: totals and counts, true and false positives. A loss
    with reduction="sum" has no value for all examples: Keras averages batches' sums.)
    """

    def __init__(self, data, backend, evaluate, limit=None):
        self.data, self.backend, self.evaluate = data, backend, evaluate
        whole_batches = math.ceil(data.counts[1] / data.batch_size)
        left = data.counts[1] % data.batch_size
        if left and left < backend.replicas:
            whole_batches -= 1
        self.steps = min(whole_batches, limit or whole_batches)
        self.counts_all = self.steps == whole_batches
        self.left_over = []
        self.even, self.rest = None, None

    def even_batches(self):
        """Yield this process's shares, and put aside what cannot be shared."""
        left_over, last = [], None
        for batch in self.data.validation_batches():
            size = size_of(batch)
            shared = size - size % self.backend.replicas
            left_over += [rows_of(batch, [row]) for row in range(shared, size)]
            if not shared:
                continue
            if last is not None:
                yield last
            part = rows_of(batch, slice(0, shared))
            last = share(part, self.backend.index, self.backend.processes)
        self.left_over = left_over  # before the last batch: nobody asks for one more
        if last is not None:
            yield last

    def left_over_batches(self):
        """Yield each example that is left, once for each replica of this process."""
        for example in self.left_over:
            yield rows_of(example, [0] * self.backend.local_replicas)

    def results(self, model):
        """Return all metrics of all examples, as a dict of floats."""
        totals, logs = None, {}
        if self.steps:
            if self.even is None:
                self.even = for_keras(self.even_batches, self.steps)
            logs = self.evaluate(model, self.even)
            totals = [as_array(variable) for variable in model.metrics_variables]
        else:
            list(self.even_batches())  # there are none, but some are left over
        if self.left_over and self.counts_all:
            logs = self.add_left_over(model, totals)
        return flat(logs)

    def add_left_over(self, model, totals):
        """Return the metrics of all examples, by what they have added up (`totals`)."""
        import numpy as np

        if self.rest is None:
            self.rest = for_keras(self.left_over_batches, len(self.left_over))
        logs = self.evaluate(model, self.rest)
        if set(logs) != set(model.get_metrics_result()):
            refuse(
                "test_step returns what is no metric of the model, and "
                f"{len(self.left_over)} examples cannot be shared by "
                f"{self.backend.replicas} replicas: validate with so many fewer"
            )
        added = [as_array(variable) for variable in model.metrics_variables]
        totals = totals or [0] * len(added)
        copies = self.backend.replicas
        for variable, total, add in zip(
            model.metrics_variables, totals, added, strict=True
        ):
            variable.assign(np.asarray(total + add / copies).astype(variable.dtype))
        return model.get_metrics_result()


def flat(results, prefix=""):
    """Return metrics as {name: number}.

    Keras nests those of several outputs; some, such as F1Score, have a number for each
    class: f1_score_0, f1_score_1, …
    """
    import numpy as np

    found = {}
    for name, value in sorted(results.items()):  # Keras sorts them here, and not there
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}_")
            continue
        numbers = np.asarray(value, "float64")
        if numbers.ndim == 0:
            found[prefix + name] = float(numbers)
        else:
            each = enumerate(numbers.ravel())
            found |= {
                f"{prefix}{name}_{index}": float(number) for index, number in each
            }
    return found


def evaluate_with_keras(model, batches):
    return model.evaluate(batches, verbose=0, return_dict=True)


class ByHand:
    """Several processes on TensorFlow, where `fit` of Keras 3 fails.

    Each replica makes the model's own `train_step`; the optimizer adds up the gradients
    of all replicas. Everything else is done as `fit` does it.
    """

    def __init__(self, model, backend):
        import tensorflow as tf

        self.model, self.backend = model, backend

        def on_all(step):
            own = is_of_the_reader(step)

            @tf.function(reduce_retracing=True)
            def call(batch):
                logs = backend.strategy.run(step, args=(batch,))
                if not own:  # what Keras' own step returns are the metrics
                    return {}
                mean = backend.strategy.reduce
                return {name: mean("MEAN", logs[name], axis=None) for name in logs}

            return call

        self.train, self.test = on_all(model.train_step), on_all(model.test_step)

    def divide(self, batch):
        """Give each replica of this process its part of the process's share."""
        local = self.backend.local_replicas

        def part(context):
            own = context.replica_id_in_sync_group - self.backend.index * local
            return share(batch, own, local)

        distribute = self.backend.strategy.experimental_distribute_values_from_function
        return distribute(part)

    def evaluate(self, model, batches):
        model.reset_metrics()
        logs = {}
        for batch in batches:
            logs = self.test(self.divide(batch))
        return self.results(logs)

    def results(self, logs):
        """Return what `fit` shows: the metrics, or what the reader's step returns."""
        metrics = self.model.get_metrics_result()
        return metrics if not logs or set(logs) == set(metrics) else logs

    def fit(self, batches, initial_epoch, epochs, callbacks, logs_for_batches):
        import keras

        model = self.model
        params = {"epochs": epochs, "steps": len(batches), "verbose": 0}
        callbacks = keras.callbacks.CallbackList(
            callbacks, add_history=True, model=model, **params
        )
        model.stop_training = False
        callbacks.on_train_begin()
        logs = {}
        for epoch in range(initial_epoch, epochs):
            model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            for step, batch in enumerate(batches):
                callbacks.on_train_batch_begin(step)
                logs = self.train(self.divide(batch))
                shown = flat(self.results(logs)) if logs_for_batches else {}
                callbacks.on_train_batch_end(step, shown)
                if model.stop_training:
                    break
            logs = flat(self.results(logs))
            callbacks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        callbacks.on_train_end(logs)


def is_of_the_reader(method):
    """Return whether a model's method is not Keras' own."""
    return not method.__func__.__module__.startswith("keras.")


def create_keeper(run):
    """Return the callbacks of this program: around those of the reader."""
    import keras

    class Before(keras.callbacks.Callback):
        """Sets what an epoch begins with; adds the validation's results to its logs."""

        def on_epoch_begin(self, epoch, logs=None):
            run.begin(epoch)

        def on_train_batch_begin(self, step, logs=None):
            run.before_step(step)

        def on_epoch_end(self, epoch, logs=None):
            run.validate(logs)

    class After(keras.callbacks.Callback):
        """Keeps what an epoch ends with, after all other callbacks."""

        def on_epoch_end(self, epoch, logs=None):
            run.keep(epoch + 1, logs)

    return Before(), After()


class Run:
    """One training: the model, its data, its folder, and how far it is."""

    def __init__(self, options, backend, data, model, restored, writes_to, lease):
        self.options, self.backend, self.lease = options, backend, lease
        self.data, self.model = data, model
        self.writes_to = writes_to
        self.state = State(model, backend)
        self.checkpoints = Checkpoints(writes_to)
        self.log = Log(writes_to / "log.csv")
        self.events = None
        self.by_hand = None
        if isinstance(backend, OnTensorFlow) and backend.processes > 1:
            self.by_hand = ByHand(model, backend)
        evaluate = self.by_hand.evaluate if self.by_hand else evaluate_with_keras
        limit = 1 if options.dry_run else None
        self.validation = Validation(data, backend, evaluate, limit)
        self.rate = rate_of(model.optimizer)
        self.calls = 0
        self.epoch, self.step, self.metrics = 0, 0, []
        if restored:
            self.go_on(*restored)
        self.first_epoch = self.epoch
        self.shares: typing.Any = None
        self.steps_before = 0
        self.checked = 0

    def go_on(self, facts, values):
        """Continue from a checkpoint, or refuse where it is another training's."""
        different = self.state.differences(facts["variables"])
        of = facts.get("backend", self.options.backend)
        if different and of != self.options.backend:
            refuse(
                f"{self.options.run_folder} holds a training on {of}, and this model's "
                f"cannot go on with --backend {self.options.backend} ({different}): "
                f"use --backend {of}, or another --run-folder"
            )
        if different:
            refuse(
                f"{self.options.run_folder} holds another model's training "
                f"({different}): use another --run-folder"
            )
        rate = self.rate
        self.state.set(values)
        if rate is not None and rate != facts["learning_rate"]:
            say(f"learning rate {rate:g}, and no longer {facts['learning_rate']}")
            self.model.optimizer.learning_rate = rate
        self.epoch, self.step = facts["epoch"], facts["step"]
        if self.step and facts["epoch_of"] != self.epoch_of():
            refuse(
                f"the training stopped within an epoch of {facts['epoch_of']}, and "
                f"this one is of {self.epoch_of()}: take the same data, options and "
                "replicas"
            )
        for name, setting in self.settings().items():
            before = facts["settings"].get(name, setting)
            if before != setting:
                say(
                    f"{name}: {setting}, and no longer {before} (to begin anew "
                    "instead: another --run-folder)"
                )
        self.metrics = facts["metrics"] if self.step else []
        self.log.rows = facts["log"]
        if self.step:
            self.log.write()
        elif self.log.rows:
            self.write_log_and_best_weights()

    def settings(self):
        """Return what else decides how it goes on, and may be changed: in words."""
        optimizer = inner(self.model.optimizer)
        return {
            "loss": words_of(self.model.loss),
            "optimizer": words_of(optimizer, but=("name", "learning_rate")),
            "layers and their settings, digest": self.digest_of_layers(),
            "examples to train on": self.data.counts[0],
            "examples a step": self.data.batch_size,
        }

    def digest_of_layers(self):
        """Return a digest of what the model was built with; "" where it cannot say."""
        try:
            config = self.model.to_json()
        except Exception:  # a subclass without get_config
            return ""
        config = json.loads(config)
        for key in "compile_config", "build_config":
            config.pop(key, None)
        return hashlib.sha256(json.dumps(config).encode()).hexdigest()[:8]

    def epoch_of(self):
        """Return what decides which examples are in which step, in words."""
        return (
            f"{self.data.counts[0]} examples, {self.data.batch_size} a step on "
            f"{self.backend.replicas} replicas, shuffled by {self.data.buffer}"
        )

    def words_for_devices(self):
        """Return how many workers there are, and which devices each has, in words."""
        backend = self.backend
        several = backend.processes > 1
        workers = f"{backend.processes} workers" if several else "1 worker"
        devices = f"{backend.local_replicas} {backend.kind}"
        if backend.local_replicas > 1:
            devices += "s"
        if several:
            devices += " each"
        return workers, devices

    def describe_start(self):
        """Return what was found, and where it begins, as lines to print."""
        backend, data = self.backend, self.data
        workers, devices = self.words_for_devices()
        left_out = data.counts[0] - data.steps * data.batch_size
        steps = f"{data.steps} steps an epoch"
        if left_out:
            steps += f", which leave out {left_out}"
        lines = [
            f"{workers} with {devices}: {data.batch_size} examples a step, "
            f"{data.batch_size // backend.replicas} of them on each device",
            f"{data.counts[0]:,} examples to train on: {steps}; "
            f"{data.counts[1]:,} to validate with",
        ]
        if self.options.check_replicas and backend.replicas == 1:
            lines.append("--check-replicas: there is one replica, nothing to compare")
        epochs = self.options.epochs
        if self.has_ended():
            return [
                *lines,
                f"nothing is left to train: {self.epoch} epochs, and "
                f"--patience {self.options.patience} is over",
            ]
        if self.epoch >= epochs:
            return [
                *lines,
                f"nothing is left to train: {self.epoch} epochs are done, "
                f"--epochs is {epochs}",
            ]
        begin = f"epochs {self.epoch + 1} to {epochs}"
        if self.epoch or self.step:
            return [
                *lines,
                f"{begin}, from the checkpoint of epoch {self.epoch}, step {self.step}",
            ]
        return [*lines, f"{begin}, from the start"]

    # While it trains

    def fit(self):
        """Train until the last epoch, or until patience ends."""
        own = callbacks(self.writes_to)
        before, after = create_keeper(self)
        all_callbacks = [before, *own, after]
        logs_for_batches = any(map(wants_logs_of_batches, own))
        epochs = self.options.epochs
        if self.step:  # what is left of the epoch in which it was stopped
            self.fit_until(self.epoch + 1, all_callbacks, logs_for_batches)
        stopped = self.has_ended() or getattr(self.model, "stop_training", False)
        if self.epoch < epochs and not stopped:
            self.fit_until(epochs, all_callbacks, logs_for_batches)

    def create_metrics(self):
        """Make the variables of the metrics, which otherwise the first step makes."""
        batches = Shares(self.data, self.backend, self.epoch, limit=1).for_keras()
        # A GRU with dropout draws random numbers here, too: its seed is put back.
        kept = self.model.non_trainable_variables
        values = [as_array(variable) for variable in kept if is_seed(variable)]
        self.validation.evaluate(self.model, batches)
        for variable, value in zip(filter(is_seed, kept), values, strict=True):
            variable.assign(value)

    def fit_until(self, epochs, all_callbacks, logs_for_batches):
        if self.step or self.by_hand:
            self.create_metrics()
        limit = 4 if self.options.dry_run else None
        self.shares = Shares(self.data, self.backend, self.epoch, self.step, limit)
        self.steps_before = self.step
        options = {"initial_epoch": self.epoch, "epochs": epochs}
        options["callbacks"] = all_callbacks
        batches = self.shares.for_keras()
        if self.by_hand:
            self.by_hand.fit(batches, logs_for_batches=logs_for_batches, **options)
        else:
            self.model.fit(batches, shuffle=False, verbose=0, **options)

    def begin(self, epoch):
        import numpy as np

        self.shares.epoch = epoch
        if self.metrics:  # of the part of this epoch that was trained before a signal
            own = self.model.metrics_variables
            for variable, value in zip(own, self.metrics, strict=True):
                variable.assign(np.asarray(value, variable.dtype))
        self.metrics = []
        self.epoch_started = self.shown = time.monotonic()
        self.step_times = []

    def before_step(self, step):
        """Warm up, show how far it is, and save if a signal has come to any process.

        step: how many steps of this call of `fit` the epoch has made.
        """
        end_if_interrupted()
        done = self.steps_before + step
        now = time.monotonic()
        self.step_times.append(now)
        self.warm_up(done)
        every = self.options.check_replicas
        made = self.epoch * self.data.steps + done
        if every and made - self.checked >= every:
            self.checked = made
            self.check_replicas(f"step {done} of epoch {self.epoch + 1}")
        if step and now - self.shown > PROGRESS_SECONDS:
            self.shown = now
            if self.backend.index == 0:
                speed = self.speed(step, now - self.epoch_started)
                say(
                    f"epoch {self.epoch + 1}: step {done} of {self.data.steps}; {speed}"
                )
        self.calls += 1
        if self.calls % CHECK_EVERY == 0 and any_of(self.backend, bool(SIGNALLED)):
            self.save(self.epoch, done, with_metrics=True)
            raise Saved

    def warm_up(self, done):
        steps = self.options.warm_up_steps
        made = self.epoch * self.data.steps + done
        if self.rate is not None and made <= steps and steps:
            self.backend.before_reading(self.model)
            self.model.optimizer.learning_rate = self.rate * min(1, (made + 1) / steps)

    def speed(self, steps, seconds):
        """Return examples/s and the time left, in words, after so many steps."""
        rate = steps * self.data.batch_size / seconds
        all_steps = (self.options.epochs - self.epoch) * self.data.steps
        left = (all_steps - self.steps_before - steps) * seconds / steps
        return f"{rate:,.0f} examples/s, {datetime.timedelta(seconds=round(left))} left"

    def validate(self, logs):
        self.step_times.append(time.monotonic())
        self.trained_seconds = self.step_times[-1] - self.epoch_started
        training = flat(logs)
        self.state.average()
        results = self.validation.results(self.model)
        logs.clear()
        logs.update(training)
        logs.update({f"val_{name}": value for name, value in results.items()})

    def keep(self, done, logs):
        """Keep an epoch that is done: its row, its weights, and a checkpoint."""
        seconds = time.monotonic() - self.epoch_started
        speed = self.speed(self.shares.steps, self.trained_seconds)
        results = flat(logs)
        if self.options.patience and "val_loss" not in results:
            refuse("--patience needs a val_loss, and the model's test_step gives none")
        self.log.forget_after(done - 1)
        self.log.add(done, results)
        self.epoch, self.step, self.steps_before = done, 0, 0
        self.model.stop_training |= self.has_ended()
        if self.has_ended() and self.backend.index == 0:
            say(
                f"--patience {self.options.patience} is over: it stops after this epoch"
            )
        if not self.options.dry_run:
            # First what a new start goes on from: all else it can write again.
            self.save(done, 0)
            self.write_log_and_best_weights()
            self.write_events(done, results)
        if self.backend.index == 0:
            words = ", ".join(f"{name} {value:.4f}" for name, value in results.items())
            say(
                f"epoch {done} of {self.options.epochs}: {words}; "
                f"{seconds:.1f} s, {speed}"
            )
        if any_of(self.backend, bool(SIGNALLED)) and done < self.options.epochs:
            raise Saved

    def write_log_and_best_weights(self):
        """Write the log; and the weights, if they are the best ones so far."""
        self.log.write()
        if self.log.epochs_since_best() == 0:
            self.model.save_weights(self.writes_to / "best.weights.h5")

    def has_ended(self):
        patience = self.options.patience
        return bool(patience and self.log.epochs_since_best() >= patience)

    def save(self, epoch, step, with_metrics=False):
        """Write a checkpoint; all processes wait until the first one has done so."""
        if self.lease and self.lease.lost:
            refuse(
                f"another training has taken {self.options.run_folder}: this one ends"
            )
        values, metrics = self.state.read()
        if self.options.check_replicas:  # first: it may say whose NaN it is
            where = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
            self.check_replicas(where)
        self.check_weights(values)
        facts = {
            "epoch": epoch,
            "step": step,
            "learning_rate": self.rate,
            "backend": self.options.backend,
            "settings": self.settings(),
            "epoch_of": self.epoch_of(),
            "variables": self.state.describe(),
            "metrics": [value.tolist() for value in metrics] if with_metrics else [],
            "log": self.log.rows,
        }
        if self.backend.index == 0:
            self.checkpoints.save(facts, values)
        any_of(self.backend, False)

    def check_weights(self, values):
        """Refuse to keep weights that are no numbers: nothing could go on from them."""
        import numpy as np

        for variable, value in zip(self.state.variables(), values, strict=True):
            is_float = "float" in str(value.dtype)
            if is_float and not np.isfinite(value.astype("float32")).all():
                refuse(
                    f"{variable.path} is NaN or infinite after epoch {self.epoch}, and "
                    "is not saved: look for NaN in what examples() returns, or lower "
                    "--learning-rate; checkpoints from before are kept"
                )

    def write_events(self, epoch, results):
        """Write the results for TensorBoard, where it is installed."""
        installed = map(importlib.util.find_spec, ("tensorboard", "tensorflow"))
        if self.backend.index or not all(installed):
            return
        import tensorflow as tf

        if self.events is None:  # one file for this start
            self.events = tf.summary.create_file_writer(str(self.writes_to / "events"))
        with self.events.as_default(step=epoch):
            for name, value in results.items():
                tf.summary.scalar(name, value)
        self.events.flush()

    # When it has ended

    def write_model(self):
        """Write the last weights, and the model with its architecture."""
        self.model.save_weights(self.writes_to / "last.weights.h5")
        try:
            self.model.save(self.writes_to / "model.keras")
        except Exception as problem:  # a layer without get_config, say
            why = str(problem).strip().splitlines()[0]
            say(f"model.keras cannot be written ({why}): use last.weights.h5")

    def digest(self):
        weights = b"".join(array.tobytes() for array in self.model.get_weights())
        return hashlib.sha256(weights).hexdigest()[:16]

    def differing_weights(self):
        """Return the paths of weights in which processes differ; all must ask."""
        weights = self.model.weights
        digests = self.digests_of_replicas(weights)
        first_of_each = digests[:: self.backend.local_replicas]
        return [weights[index].path for index in odd_ones(first_of_each)]

    def check_replicas(self, where):
        """End where weights differ between replicas, which a sound run keeps equal.

        TensorFlow and JAX never compare them: a bit that flips in one replica's memory
        spoils its gradients, and through them everybody's, without an error.

        Args:
            where: after which step, in words.
        """
        if self.backend.replicas == 1:
            return
        self.backend.before_reading(self.model)
        apart = {id(variable) for variable in self.state.apart()}
        weights = [one for one in self.state.variables() if id(one) not in apart]
        odd = odd_ones(self.digests_of_replicas(weights))
        if not odd:
            return
        paths = ", ".join(weights[index].path for index in odd)
        blamed = sorted({replica for replicas in odd.values() for replica in replicas})
        who = "which one is wrong cannot be said"
        if 2 * len(blamed) < self.backend.replicas:
            local = self.backend.local_replicas
            places = [f"{replica} of worker {replica // local}" for replica in blamed]
            who = f"replica {' and '.join(places)} differs from the majority"
        raise SystemExit(
            f"train.py: --check-replicas: after {where} the replicas' weights differ "
            f"in {paths}: {who}. A sound training on equal machines does not do this: "
            f"test the memory; {what_a_new_start_does(self.options)}"
        )

    def digests_of_replicas(self, weights):
        """Return a number for each replica's copy of each weight, (replicas, weights).

        All processes must ask together.
        """
        import numpy as np

        digests = []
        for weight in weights:
            copies = [copy.tobytes() for copy in self.backend.copies(weight)]
            if len(copies) == 1:  # there is one for all replicas of this process
                copies *= self.backend.local_replicas
            digests.append([hashlib.sha256(copy).digest()[:8] for copy in copies])
        own = np.frombuffer(b"".join(itertools.chain(*digests)), "int32")
        own = own.reshape(len(weights), self.backend.local_replicas, 2)
        gathered = self.backend.gather(own)  # (processes, weights, replicas of each, 2)
        by_replica = gathered.swapaxes(1, 2).reshape(-1, len(weights), 2)
        return np.ascontiguousarray(by_replica, "int32").view("int64")[..., 0]

    def describe_dry_run(self):
        """Return how large the model is, how fast its steps were, what they took."""
        import resource

        # The first calls compile; a call makes several steps if the model says so.
        calls = [end - begin for begin, end in itertools.pairwise(self.step_times)]
        steps_a_call = 1 if self.by_hand else self.model.steps_per_execution
        seconds = min(calls) / min(steps_a_call, self.shares.steps)
        peak = self.backend.peak_memory()
        device = f"{peak / 2**20:,.0f} MiB of the first device" if peak else "a CPU"
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        processes, devices = self.words_for_devices()
        gpus = ", ".join(visible_gpus(os.environ))
        if gpus:
            devices += f"; GPUs of this process: {gpus}"
        return [
            f"{processes} with {devices}",
            f"{self.model.count_params():,} parameters; {self.data.counts[0]:,} "
            f"examples to train on, {self.data.counts[1]:,} to validate with",
            f"a step of {self.data.batch_size} examples: {1000 * seconds:.1f} ms, "
            f"{self.data.batch_size / seconds:,.0f} examples/s",
            f"memory: {host:,.0f} MiB of the machine, {device}",
        ]


def odd_ones(digests):
    """Return which weights differ between replicas, and who has not what most have.

    Args:
        digests: an integer for each replica and weight, (replicas, weights).

    Returns:
        By the index of each such weight the replicas that differ from the majority; all
        of them where more than half of them do not agree.
    """
    odd = {}
    for index, column in enumerate(digests.T.tolist()):
        (common, times), *others = collections.Counter(column).most_common()
        if others and 2 * times > len(column):
            odd[index] = [k for k, value in enumerate(column) if value != common]
        elif others:
            odd[index] = list(range(len(column)))
    return odd


def words_of(thing, but=("name",)):
    """Return what a loss or an optimizer is, with what it was made with."""
    if isinstance(thing, (dict, list, tuple)):
        each = thing.items() if isinstance(thing, dict) else enumerate(thing)
        return ", ".join(f"{name}: {words_of(one, but)}" for name, one in each)
    name = getattr(thing, "__name__", None) or type(thing).__name__
    if thing is None or isinstance(thing, str) or not hasattr(thing, "get_config"):
        return str(thing) if isinstance(thing, (str, type(None))) else name
    made = {key: value for key, value in thing.get_config().items() if key not in but}
    plain = {
        key: value
        for key, value in sorted(made.items())
        if isinstance(value, (str, int, float, bool))
    }
    return f"{name}({', '.join(f'{key}={value}' for key, value in plain.items())})"


def is_seed(variable):
    return "seed_generator" in variable.path


def wants_logs_of_batches(callback):
    """Return whether a callback looks at what each batch gives."""
    import keras

    for name in "on_train_batch_end", "on_batch_end":
        # a function of the object's own, in LambdaCallback
        hook = getattr(callback, name)
        default = getattr(keras.callbacks.Callback, name)
        if getattr(hook, "__func__", hook) is not default:
            return True
    return False


SIGNALLED = []
"""The signals that have come since `listen_for_interrupts` and `listen_for_signals`."""


def listen_for_interrupts():
    """Note Ctrl-C, too, from now on: what it raises may be lost in a callback."""

    def interrupt(number, frame):
        SIGNALLED.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def end_if_interrupted():
    """Raise what Ctrl-C has raised, if that was lost."""
    if signal.SIGINT in SIGNALLED:
        raise KeyboardInterrupt


def listen_for_signals():
    """Note SIGTERM and SIGUSR1 from now on, instead of ending."""

    def note(number, frame):
        SIGNALLED.append(number)

    for name in SIGNALS:
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), note)


def check_backend(wanted):
    """Refuse where something has imported Keras with another backend."""
    import keras

    if keras.backend.backend() != wanted:
        refuse(
            f"--backend {wanted}, but Keras was imported before, and runs on "
            f"{keras.backend.backend()}: set KERAS_BACKEND={wanted}"
        )


def restore(options):
    """Return the newest checkpoint of the run folder; None at a training's start."""
    if options.dry_run:
        return None
    restored = Checkpoints(options.run_folder).restore()
    left = [name for name in WRITTEN if (options.run_folder / name).exists()]
    if left and not restored:
        refuse(
            f"{options.run_folder} has {', '.join(left)} of a training, and no "
            "checkpoint to go on from: use another --run-folder, or move them away"
        )
    return restored


def train(options):
    """Train as the options say; return the model."""
    place = resolve_cluster(os.environ)
    gpus = choose_gpus(place, os.environ)
    check_backend(options.backend)
    check_port(place, options.backend)
    if options.backend == "tensorflow" and "" in place.workers:
        refuse(
            "JAX_COORDINATOR_ADDRESS is JAX's, and TensorFlow needs the addresses of "
            "all processes in TF_CONFIG: use --backend jax"
        )
    if options.backend == "jax" and (options.allow_cpu or not gpus):
        check_own_name(place.workers)
    kind = OnJax if options.backend == "jax" else OnTensorFlow
    listen_for_interrupts()
    if place.workers:
        known = " ".join(address for address in place.workers if address)
        say(f"worker {place.index} waits for all {len(place.workers)}: {known}")
        meet(place, options.backend, options.wait_for_workers)
        # Should one of them be killed just now, the others would wait without end.
        faulthandler.dump_traceback_later(options.wait_for_workers, exit=True)
    backend = kind(place, options)
    faulthandler.cancel_dump_traceback_later()
    listen_for_signals()  # only now: jax.distributed listens for itself
    with contextlib.ExitStack() as stack:
        lease = take_folder(options, backend, stack)
        restored = restore(options)
        check_progress(options, backend, restored)
        data = Data(
            options.data,
            options.batch_size_per_replica,
            backend.replicas,
            options.shuffle_buffer_mib * 2**20,
        )
        first_epoch = restored[0]["epoch"] if restored else 0
        if not all_equal(backend, data.digest(first_epoch)):
            refuse(
                "examples() returns other examples, or another order, in each process: "
                "read files in sorted order, draw with the global seed of NumPy or "
                "TensorFlow, and never at random in a map with num_parallel_calls"
            )
        model = create_model(options, backend, data)
        folder = options.run_folder
        if backend.index or options.dry_run:
            # All processes save together, and only what the first one writes is kept.
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(options, backend, data, model, restored, folder, lease)
        if options.dry_run:
            dry_run(run)
        else:
            train_and_write(run)
    return model


def take_folder(options, backend, stack):
    """Return this training's lease on its run folder; None in all but the first one.

    It is given back when the stack is left.
    """
    if options.dry_run:
        return None
    folder = options.run_folder
    why = (
        f"another training uses {folder}, and its lease.json names it: end it, or use "
        "another --run-folder"
    )
    lease, is_taken = None, True
    if backend.index == 0:
        lease = Lease(folder)
        try:
            is_taken = lease.take()
        except OSError as problem:
            is_taken = False
            why = f"--run-folder {folder} cannot be written: {problem.strerror}"
        if is_taken:
            stack.callback(lease.give_back)
    if any_of(backend, not is_taken):
        refuse(why)
    return lease


def check_progress(options, backend, restored):
    """Refuse a folder in which each process finds something else."""
    progress = [restored[0][fact] for fact in ("epoch", "step")] if restored else [0, 0]
    if not all_equal(backend, json.dumps(progress).encode()):
        refuse(
            f"this process finds epoch {progress[0]}, step {progress[1]} in "
            f"{options.run_folder}, and others do not: all must reach the same folder"
        )


def dry_run(run):
    """Train a few steps, and say what they took."""
    run.options.epochs = 1
    run.model.optimizer.finalize_variable_values = lambda variables: None
    run.fit()
    for line in run.describe_dry_run():
        say(f"process {run.backend.index}: {line}")


def train_and_write(run):
    """Train until the end; write what it leaves."""
    model, backend = run.model, run.backend
    if backend.index == 0:
        for line in run.describe_start():
            say(line)
    finalize = model.optimizer.finalize_variable_values
    model.optimizer.finalize_variable_values = lambda variables: None
    run.fit()
    finalize(model.trainable_variables)  # moving averages, if the optimizer has some
    run.write_model()
    differing = run.differing_weights()
    if differing and backend.index == 0:
        say(
            f"the workers' weights differ in {', '.join(differing)}: what a layer "
            "keeps there, each worker computes for itself; written is what the first "
            "one has"
        )
    trained = f"epochs {run.first_epoch + 1} to {run.epoch}"
    if run.epoch == run.first_epoch:
        trained = f"epoch {run.epoch} was the last"
    say(f"worker {backend.index}: {trained}; weights {run.digest()}")
    with contextlib.suppress(Exception):  # who is in here has done all its work
        any_of(backend, False)  # nobody leaves while another still writes


def free_addresses(number):
    """Return addresses of this machine at which nobody listens.

    Their ports are below those that Linux gives to outgoing connections, one of which
    might take them until the workers listen.
    """
    if number > MOST_LOCAL_WORKERS:
        refuse(f"--local-workers {number}: at most {MOST_LOCAL_WORKERS} on one machine")
    ports = []
    while len(ports) < number:
        port = random.SystemRandom().randrange(20000, 32768)
        if port not in ports and is_free(port):
            ports.append(port)
    return [f"127.0.0.1:{port}" for port in ports]


PARENT = "TRAIN_PY_PARENT"
"""In a local worker's environment: the number of the process that has started it."""


def train_with_local_workers(options, words):
    """Train with several processes on this machine; return the exit code."""
    for name in "TF_CONFIG", "JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NODELIST":
        if os.environ.get(name):
            refuse(f"--local-workers is for one machine, and {name} names a cluster")
    count = options.local_workers
    addresses, visible = free_addresses(count), visible_gpus(os.environ)
    command = [sys.executable, os.path.abspath(__file__), *words, "--local-workers=1"]
    workers = []
    try:
        for index in range(count):
            own = own_gpus(visible, Place(index, addresses, index, count), len(visible))
            variables = {"TF_CONFIG": tf_config(addresses, index)}
            variables[PARENT] = str(os.getpid())
            if visible:
                variables["CUDA_VISIBLE_DEVICES"] = ",".join(own)
            workers.append(subprocess.Popen(command, env=os.environ | variables))
        listen_for_signals()
        listen_for_interrupts()
        return wait_for_workers(workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def wait_for_workers(workers):
    """Return 0 when all have ended well, or the exit code of one that has failed.

    The others then have some seconds to end, too.
    """
    handed_on, until = 0, math.inf
    while None in [worker.poll() for worker in workers] and time.monotonic() < until:
        for number in SIGNALLED[handed_on:]:
            for worker in workers:
                worker.send_signal(number)
        handed_on = len(SIGNALLED)
        if until == math.inf and any(worker.returncode for worker in workers):
            until = time.monotonic() + PEERS_SECONDS
        time.sleep(0.1)
    # A signal's is negative: the others' follow from it.
    code = min((each.returncode for each in workers if each.returncode), default=0)
    if None in [worker.returncode for worker in workers]:
        say(f"a worker has ended with exit code {code}: the others end, too")
    return code if code >= 0 else 128 - code  # as a shell says that a signal ended it


def end_with_parent():
    """End this process when the one that has started it is no more."""
    parent = os.environ.get(PARENT)
    if not parent:
        return

    def watch():
        while str(os.getppid()) == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


PEER_WORDS = re.compile(
    "socket closed|connection (reset|closed|refused)|closed by peer|broken pipe|"
    "is aborted|heartbeat|failed to connect|stopped sending|incarnation|end of file|"
    "unavailable|another task died",
    re.IGNORECASE,
)
"""What TensorFlow, gloo and gRPC say where another process has ended."""


def explain(problem, options):
    """Return what to do about what has been raised, or "" if nothing is known."""
    no_space = errno.ENOSPC, errno.EDQUOT
    if getattr(problem, "errno", 0) in no_space or "No space left" in str(problem):
        return (
            "there is no space left: make some, and start again; it goes on from the "
            f"last whole checkpoint in {options.run_folder}"
        )
    path = getattr(problem, "filename", None)
    if isinstance(problem, OSError) and is_in(options.run_folder, path):
        return (
            f"--run-folder {options.run_folder} cannot be used: {path}: "
            f"{problem.strerror}"
        )
    is_field = type(problem).__module__.split(".")[0] in ("tensorflow", "jax", "jaxlib")
    is_field = is_field or type(problem) in (RuntimeError, ValueError)
    if several_processes() and is_field and PEER_WORDS.search(str(problem)):
        return (
            "another worker has ended: its own last words say why (without words it "
            "was killed, for want of memory perhaps); start all again, and they go on "
            "from the last checkpoint"
        )
    return ""


def is_in(folder, path):
    """Return whether a path, which may be None, lies in this folder."""
    if not isinstance(path, (str, pathlib.Path)):
        return False
    return folder.absolute() in pathlib.Path(path).absolute().parents


def several_processes():
    """Return whether this is one of several workers."""
    names = "TF_CONFIG", "JAX_COORDINATOR_ADDRESS"
    return any(os.environ.get(name) for name in names)


def what_a_new_start_does(options):
    """Return whether it goes on or begins anew, in words."""
    if Checkpoints(options.run_folder).files() and not options.dry_run:
        return "started again, it goes on from the last checkpoint"
    return "nothing is saved yet; started again, it begins anew"


def code_of_sentence(end):
    """Print a sentence of this program's, or of the reader's own; return the code."""
    print(f"{end.code}\n", end="", file=sys.stderr, flush=True)
    return REFUSED if isinstance(end, Refused) else 1


def code_of_failure(problem, options):
    """Print what to do about what has been raised, or all of it; return the code."""
    if isinstance(problem, SystemExit):
        return code_of_sentence(problem)
    first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    sentence = explain(problem, options)
    if sentence:
        print(f"{first}\ntrain.py: {sentence}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(problem)
    return 1


def main(words):
    """Train; return the exit code."""
    options = parse(words)
    try:
        if options.local_workers > 1:
            return train_with_local_workers(options, words)
        end_with_parent()
        train(options)
    except Saved:
        say("a signal came, and everything is saved: started again, it goes on")
        code = SAVED
    except SystemExit as end:
        code = code_of_sentence(end)
    except KeyboardInterrupt:
        say(f"interrupted: {what_a_new_start_does(options)}")
        code = 128 + signal.SIGINT
    except Exception as problem:
        code = code_of_failure(RAISED[0] if RAISED else problem, options)
    else:
        return 0
    # At its ordinary end, a process would wait for others that are no more.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
