"""Train a Keras model on one device, on all GPUs of a machine, or on several machines: on whatever is found.

    python train.py --epochs 10 --run-folder run        on this machine
    sbatch train.sbatch                                 on Slurm; Kubernetes: kubernetes/job.yaml; ssh: two_machines.sh

`build` and `examples` are yours: change them. TensorFlow and Keras are all that is needed (the sample data are
scikit-learn's). Every worker runs this file, and all of them reach --run-folder. There the chief keeps a checkpoint of
the last epochs, best.keras, log.csv and events for TensorBoard; started again, the training goes on from there.
"""

import argparse
import csv
import functools
import hashlib
import importlib.util
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile


def build():
    """Yours: a compiled model. Its loss, optimizer and metrics are used, and its penalties (`model.losses`)."""
    import keras

    @keras.saving.register_keras_serializable("train")
    class Residual(keras.layers.Layer):
        def __init__(self, filters, **options):
            super().__init__(**options)
            self.filters = filters
            penalty = keras.regularizers.L2(1e-3)
            self.convolution = keras.layers.Conv2D(
                filters, 3, padding="same", activation="relu", kernel_regularizer=penalty
            )

        def build(self, shape):
            self.convolution.build(shape)

        def call(self, inputs):
            return inputs + self.convolution(inputs)

        def get_config(self):
            return super().get_config() | {"filters": self.filters}

    keras.utils.set_random_seed(0)  # the same start on all workers
    layers = [keras.layers.Conv2D(16, 3, padding="same"), Residual(16), Residual(16), keras.layers.Flatten()]
    outputs = keras.layers.Dense(10, dtype="float32")  # in float32, whatever --precision says
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, outputs])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])
    return model


def examples(path):
    """Yours: two tf.data.Dataset of (inputs, targets) or (inputs, targets, weights), of one example each, to train on
    and to validate with: in the same order on every worker. path: what --data says, or None."""
    import numpy as np
    import tensorflow as tf

    if path:
        file = np.load(path)
        parts = [(file[f"x_{name}"], file[f"y_{name}"]) for name in ("train", "test")]
    else:
        import sklearn.datasets

        digits = sklearn.datasets.load_digits()
        images = (digits.images[..., None] / 16).astype("float32")
        parts = [(images[:1536], digits.target[:1536]), (images[1536:], digits.target[1536:])]
    return [tf.data.Dataset.from_tensor_slices(part) for part in parts]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size-per-replica", type=int, default=64, help="examples a GPU and step (default: 64)")
    parser.add_argument("--learning-rate", type=float, help="default: that of build()")
    parser.add_argument("--run-folder", type=pathlib.Path, default=os.environ.get("RUN_FOLDER", "run"))
    parser.add_argument("--data", help="an .npz file of x_train, y_train, x_test, y_test (default: small digits)")
    parser.add_argument("--precision", default="float32", choices=["float32", "mixed_bfloat16", "mixed_float16"])
    parser.add_argument("--clip-norm", type=float, help="largest norm of the whole batch's gradient")
    parser.add_argument("--patience", type=int, help="stop after so many epochs without a better validation loss")
    parser.add_argument("--allow-cpu", action="store_true", help="train on CPUs though there is a GPU")
    return parser.parse_args()


def tasks_on_each_node():
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # "2(x3),1"
    return [int(count) for count, times in counts for _ in range(int(times or 1))]


def tell_tensorflow_its_place():
    """From Slurm's variables, TF_CONFIG: the same list for all, and this task's number."""
    counts = tasks_on_each_node()
    if "TF_CONFIG" in os.environ or sum(counts) < 2:
        return
    nodes = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    nodes = subprocess.run(nodes, check=True, capture_output=True, text=True).stdout.split()
    port = 12000 + int(os.environ["SLURM_JOB_ID"]) * max(counts) % 20000  # other jobs on a node take others
    places = [f"{node}:{port + k}" for node, count in zip(nodes, counts, strict=True) for k in range(count)]
    task = {"type": "worker", "index": int(os.environ["SLURM_PROCID"])}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": places}, "task": task})


def strategy_for_what_is_here(allow_cpu):
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and not allow_cpu and (shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia")):
        sys.exit("train.py: TensorFlow does not use this machine's GPU. Install tensorflow[and-cuda], ask Slurm for it "
                 "(--gres=gpu:1), or say --allow-cpu.")  # fmt: skip
    tasks = [*tasks_on_each_node(), 1][int(os.environ.get("SLURM_NODEID", 0))]
    if "SLURM_GPUS_PER_TASK" not in os.environ and len(gpus) >= tasks > 1:  # each task of a node takes its share
        gpus = gpus[int(os.environ["SLURM_LOCALID"]) :: tasks]
        tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)  # take what is needed, not all there is
    if len(json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker", [])) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def make_steps(strategy, model, clip_norm):
    """What trains on a batch, and what validates with one. Both return its loss, and both add to the metrics."""
    import keras
    import tensorflow as tf

    optimizer = model.optimizer

    def share_of_loss(batch, training):  # Keras divides means and penalties by the number of replicas
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        outputs = model(x, training=training)
        model.compute_metrics(x, y, outputs, weights)
        return model.compute_loss(x, y, outputs, weights, training=training)

    def train(batch):
        with tf.GradientTape() as tape:
            loss = share_of_loss(batch, training=True)
            scaled = optimizer.scale_loss(loss)  # for float16: its gradients would vanish; else as it is
        gradients = tape.gradient(scaled, model.trainable_variables)
        if clip_norm:  # the norm of the whole batch's gradient, so after the all-reduce
            context, scale = tf.distribute.get_replica_context(), optimizer.scale_loss(tf.ones([]))
            gradients, _ = tf.clip_by_global_norm(context.all_reduce("SUM", gradients), clip_norm * scale)
            gradients = [part / context.num_replicas_in_sync for part in gradients]  # they are added up once more
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    def distributed(function):
        return tf.function(lambda batch: strategy.reduce("SUM", strategy.run(function, (batch,)), axis=None))

    return distributed(train), distributed(lambda batch: share_of_loss(batch, training=False))


def averaged(model, step, batches):
    """The mean loss and the metrics over these batches."""
    for metric in model.metrics:
        metric.reset_state()
    losses = [step(batch) for batch in batches]
    metrics = {name: float(value) for name, value in model.get_metrics_result().items()}
    return metrics | {"loss": float(sum(losses)) / len(losses)}


def main(args):
    tell_tensorflow_its_place()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    import keras
    import tensorflow as tf

    strategy = strategy_for_what_is_here(args.allow_cpu)
    keras.config.set_dtype_policy(args.precision)
    index = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]
    batch = args.batch_size_per_replica * strategy.num_replicas_in_sync
    data, unseen = examples(args.data)
    count, steps = len(data), len(data) // batch
    if min(count, len(unseen)) < batch:
        sys.exit(f"train.py: {count} and {len(unseen)} examples are less than a global batch of {batch}: use a smaller "
                 "--batch-size-per-replica")  # fmt: skip
    with strategy.scope():
        model = build()
        if args.learning_rate:
            model.optimizer.learning_rate = args.learning_rate
        model.optimizer.build(model.trainable_variables)
        done, waited = tf.Variable(0), tf.Variable(0)  # epochs: trained, and without a better validation loss
        best = tf.Variable(math.inf)
    with tempfile.TemporaryDirectory() as thrown_away:  # all workers save together; what the chief writes is kept
        folder = args.run_folder if index == 0 else pathlib.Path(thrown_away)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, done=done, waited=waited, best=best)
        checkpoint.restore(tf.train.latest_checkpoint(args.run_folder / "checkpoints"))
        manager = tf.train.CheckpointManager(checkpoint, folder / "checkpoints", max_to_keep=2)
        first, log, rows = int(done.numpy()), folder / "log.csv", []
        if log.exists():
            rows = [row for row in csv.DictReader(log.open()) if int(row["epoch"]) <= first]
        train, test = make_steps(strategy, model, args.clip_norm)

        def shuffled(epoch):  # in another order each epoch, the same one on all workers; the last batch is a full one
            order = data.shuffle(min(count, 100_000), seed=epoch, reshuffle_each_iteration=False)
            return order.batch(batch, drop_remainder=True)

        epochs = functools.reduce(tf.data.Dataset.concatenate, map(shuffled, range(first, args.epochs)), data.take(0).batch(1))
        batches = iter(strategy.experimental_distribute_dataset(epochs.prefetch(tf.data.AUTOTUNE)))
        unseen = strategy.experimental_distribute_dataset(unseen.batch(batch, drop_remainder=True))
        for epoch in range(first + 1, args.epochs + 1):
            if args.patience and waited.numpy() >= args.patience:
                break
            results = averaged(model, train, itertools.islice(batches, steps))
            results |= {f"val_{name}": value for name, value in averaged(model, test, unseen).items()}
            waited.assign_add(1)
            if results["val_loss"] < best.numpy():
                best.assign(results["val_loss"])
                waited.assign(0)
                model.save(folder / "best.keras")
            done.assign(epoch)
            rows.append({"epoch": epoch} | results)
            with log.open("w", newline="") as file:
                table = csv.DictWriter(file, rows[-1])
                table.writeheader()
                table.writerows(rows)
            if importlib.util.find_spec("tensorboard"):  # TensorFlow 2.21 comes without it
                with tf.summary.create_file_writer(str(folder / "events")).as_default(step=epoch):
                    for name, value in results.items():
                        tf.summary.scalar(name, value)
            manager.save(epoch)
            if index == 0:
                print(f"epoch {epoch}: " + ", ".join(f"{k} {v:.4f}" for k, v in results.items()), flush=True)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights())).hexdigest()[:16]
    print(f"worker {index}: epochs {first + 1} to {int(done.numpy())}; weights {digest}", flush=True)


if __name__ == "__main__":
    main(arguments())
