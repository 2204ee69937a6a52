"""Train a Keras model on one device, on all GPUs of a machine, or on several machines: on whatever is found.

    python train.py --epochs 10 --run-folder run        on this machine
    sbatch train.sbatch                                 on Slurm; Kubernetes: kubernetes/job.yaml; ssh: two_machines.sh

`build` and `examples` are yours: change them. All workers run this file and reach --run-folder: checkpoints, log.csv,
best.weights.h5, events for TensorBoard. Started again with the same folder, it goes on after the last complete epoch.
"""

import argparse
import csv
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile


def build():
    """Yours: a compiled model. Its loss, optimizer and metrics are used, and its penalties (`model.losses`)."""
    import keras

    class Residual(keras.layers.Layer):
        def build(self, shape):
            self.convolution = keras.layers.Conv2D(shape[-1], 3, padding="same", kernel_regularizer="l2")
            self.convolution.build(shape)

        def call(self, inputs):
            return inputs + keras.ops.relu(self.convolution(inputs))

    keras.utils.set_random_seed(0)  # the same start on all workers
    layers = [keras.layers.Conv2D(16, 3, padding="same"), Residual(), Residual(), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10, dtype="float32")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])
    return model


def examples(path):
    """Yours, to train on and to validate with: two (inputs, targets[, weights]), of arrays or as `tf.data.Dataset`."""
    import numpy as np

    if path:
        file = np.load(path)
        return (file["x_train"], file["y_train"]), (file["x_test"], file["y_test"])
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    images = (digits.images[..., None] / 16).astype("float32")
    return (images[:1536], digits.target[:1536]), (images[1536:], digits.target[1536:])


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


def find_place():
    """Write TF_CONFIG on Slurm; this worker's index, all workers (a chief is the first) and this node's tasks."""
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))  # "2(x3),1"
    counts = [int(count) for count, times in counts for _ in range(int(times or 1))]
    if "TF_CONFIG" not in os.environ and sum(counts) > 1:
        nodes = subprocess.check_output(["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]], text=True)
        port = 12000 + int(os.environ["SLURM_JOB_ID"]) * max(counts) % 20000  # other jobs on a node take others
        workers = [f"{n}:{port + k}" for n, count in zip(nodes.split(), counts, strict=True) for k in range(count)]
        place = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": int(os.environ["SLURM_PROCID"])}}
        os.environ["TF_CONFIG"] = json.dumps(place)
    place = {"cluster": {}, "task": {"type": "worker", "index": 0}} | json.loads(os.environ.get("TF_CONFIG", "{}"))
    chiefs, workers = (list(place["cluster"].get(role, [])) for role in ("chief", "worker"))
    index = int(place["task"]["index"]) + (len(chiefs) if place["task"]["type"] == "worker" else 0)
    return index, chiefs + workers, counts[int(os.environ.get("SLURM_NODEID", 0))]


def strategy_for_what_is_here(workers, tasks, allow_cpu):
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and not allow_cpu and (shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia")):
        raise SystemExit("train.py: TensorFlow does not use the GPU here: install tensorflow[and-cuda] (--allow-cpu)")
    if "SLURM_GPUS_PER_TASK" not in os.environ and len(gpus) >= tasks > 1:  # each task of a node takes its share
        gpus = gpus[int(os.environ["SLURM_LOCALID"]) :: tasks]
        tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)  # take what is needed, not all there is
    if len(workers) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def make_steps(strategy, model, clip_norm):
    """What trains on a batch, and what validates with one: both return its loss, and both add to the metrics."""
    import keras
    import tensorflow as tf

    def share_of_loss(batch, training):  # Keras divides means and penalties by the number of replicas
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        outputs = model(x, training=training)
        model.compute_metrics(x, y, outputs, weights)
        return model.compute_loss(x, y, outputs, weights, training=training)

    def train(batch):
        optimizer, context = model.optimizer, tf.distribute.get_replica_context()
        with tf.GradientTape() as tape:
            loss = share_of_loss(batch, training=True)
            scaled = optimizer.scale_loss(loss)  # so that float16's gradients do not vanish; else as it is
        gradients = tape.gradient(scaled, model.trainable_variables)
        if clip_norm:  # the norm is the whole batch's, so all-reduce first; what is applied is added up once more
            summed, norm = context.all_reduce("SUM", gradients), clip_norm * optimizer.scale_loss(tf.ones([]))
            gradients = [part / context.num_replicas_in_sync for part in tf.clip_by_global_norm(summed, norm)[0]]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    def on_all(function):
        return tf.function(lambda batch: strategy.reduce("SUM", strategy.run(function, (batch,)), axis=None))

    return on_all(train), on_all(lambda batch: share_of_loss(batch, training=False))


def averaged(model, step, batches):
    model.reset_metrics()
    losses = [step(batch) for batch in batches]
    return {k: float(v) for k, v in model.get_metrics_result().items()} | {"loss": float(sum(losses)) / len(losses)}


def main(args):
    import keras
    import tensorflow as tf

    index, workers, tasks = find_place()
    strategy = strategy_for_what_is_here(workers, tasks, args.allow_cpu)
    keras.config.set_dtype_policy(args.precision)
    batch = args.batch_size_per_replica * strategy.num_replicas_in_sync
    arrays = tf.data.Dataset.from_tensor_slices
    data, unseen = (part if isinstance(part, tf.data.Dataset) else arrays(part) for part in examples(args.data))
    if (fewest := min(len(data), len(unseen))) < batch:
        raise SystemExit(f"train.py: {fewest} examples do not fill a batch of {batch}: lower --batch-size-per-replica")
    with strategy.scope():
        model = build()
        if not model.built:  # a subclass, whose weights are made when it is first called
            model(keras.utils.unpack_x_y_sample_weight(next(iter(data.batch(1))))[0])
        if args.learning_rate:
            model.optimizer.learning_rate = args.learning_rate
        model.optimizer.build(model.trainable_variables)
        done, waited, best = tf.Variable(0), tf.Variable(0), tf.Variable(float("inf"))  # epochs, and validation loss
    with tempfile.TemporaryDirectory() as thrown_away:  # all workers save together; what the chief writes is kept
        folder = args.run_folder if index == 0 else pathlib.Path(thrown_away)
        folder.mkdir(parents=True, exist_ok=True)
        kept = {"model": model, "optimizer": model.optimizer, "done": done, "waited": waited, "best": best}
        kept["dice"] = [state.value for state in model.variables if "seed_generator" in state.path]  # Dropout's
        (checkpoint := tf.train.Checkpoint(**kept)).restore(tf.train.latest_checkpoint(args.run_folder / "checkpoints"))
        manager = tf.train.CheckpointManager(checkpoint, folder / "checkpoints", max_to_keep=2)
        first, log, steps = int(done.numpy()), folder / "log.csv", len(data) // batch
        rows = [row for row in csv.DictReader(log.open()) if int(row["epoch"]) <= first] if log.exists() else []
        epochs = data.take(0)  # each will be in another order, the same one on all workers
        for epoch in range(first, args.epochs):
            order = data.shuffle(min(len(data), 100_000), seed=epoch, reshuffle_each_iteration=False)
            epochs = epochs.concatenate(order.take(steps * batch))
        parts = [part.batch(batch, drop_remainder=True).prefetch(2) for part in (epochs, unseen)]
        epochs, unseen = map(strategy.experimental_distribute_dataset, parts)
        batches, (train, test) = iter(epochs), make_steps(strategy, model, args.clip_norm)
        for epoch in range(first + 1, args.epochs + 1):
            if waited.numpy() >= (args.patience or args.epochs):
                break
            results = averaged(model, train, (part for _, part in zip(range(steps), batches, strict=False)))
            results |= {f"val_{name}": value for name, value in averaged(model, test, unseen).items()}
            waited.assign_add(1)
            if results["val_loss"] < best.numpy():
                best.assign(results["val_loss"])
                waited.assign(0)
                model.save_weights(folder / "best.weights.h5")
            done.assign(epoch)
            rows.append({"epoch": epoch} | results)
            log.write_text("".join(",".join(map(str, row)) + "\n" for row in (rows[0], *map(dict.values, rows))))
            if importlib.util.find_spec("tensorboard"):  # TensorFlow 2.21 comes without it
                with tf.summary.create_file_writer(str(folder / "events")).as_default(step=epoch):
                    _ = [tf.summary.scalar(name, value) for name, value in results.items()]
            manager.save(epoch)
            if index == 0:
                values = ", ".join(f"{name} {value:.4f}" for name, value in results.items())
                print(f"epoch {epoch}: {values}\n", end="", flush=True)  # a line at once: other workers print, too
    digest = hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights())).hexdigest()[:16]
    print(f"worker {index}: epochs {first + 1} to {done.numpy()}; weights {digest}\n", end="", flush=True)
    return model


if __name__ == "__main__":
    main(arguments())
