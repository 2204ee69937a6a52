"""Train with `fit`, by Keras on JAX: train.py's sister, beside it, with its `build`, `examples` and arguments.

Slurm, Kubernetes and ssh start it, too: in the same files, PROGRAM=train_jax.py. It does without TensorFlow, if
`examples` returns arrays. Started again with the same --run-folder, it goes on after the last complete epoch: on a GPU
to the last bit with XLA_FLAGS=--xla_gpu_deterministic_ops=true.
"""

import csv
import functools
import hashlib
import os
import pathlib
import shutil
import tempfile
import traceback

import numpy as np
import train

os.environ["KERAS_BACKEND"] = "jax"


def meet(index, workers, tasks, allow_cpu):
    """Choose the GPUs, and wait for the other processes, if there are some."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if "SLURM_GPUS_PER_TASK" not in os.environ and len(gpus) >= tasks > 1:  # each task of a node takes its share
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[int(os.environ["SLURM_LOCALID"]) :: tasks])
    import jax
    import keras

    if len(workers) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(",".join(workers), len(workers), index)
    if jax.default_backend() == "cpu" and not allow_cpu and shutil.which("nvidia-smi"):
        raise SystemExit("train_jax.py: JAX does not use the GPU here: install jax[cuda12] (--allow-cpu)")
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


def share_of(arrays, batch, index):
    """What one worker gets of each batch: its rows, in an order that the epoch alone decides."""
    import jax
    import keras

    own, count = batch // jax.process_count(), len(keras.tree.flatten(arrays)[0])
    if count < batch:
        raise SystemExit(f"train_jax.py: {count} examples do not fill a batch of {batch}: --batch-size-per-replica")

    order = functools.lru_cache(1)(lambda epoch: np.random.RandomState(epoch).permutation(count))

    class Share(keras.utils.PyDataset):
        epoch = 0

        def __len__(self):
            return count // batch

        def __getitem__(self, step):
            own_rows = order(self.epoch)[step * batch + index * own :][:own]
            return keras.tree.map_structure(lambda array: array[own_rows], arrays)

    return Share()


def main(args):
    index, workers, tasks = train.find_place()
    meet(index, workers, tasks, args.allow_cpu)
    import jax
    import keras

    keras.config.set_dtype_policy(args.precision)
    batch = args.batch_size_per_replica * len(jax.devices())
    training, validation = (share_of(arrays, batch, index) for arrays in train.examples(args.data))
    model = train.build()
    if not model.built:  # a subclass
        model(keras.utils.unpack_x_y_sample_weight(training[0])[0])
    if args.learning_rate:
        model.optimizer.learning_rate = args.learning_rate
    if args.clip_norm:  # here the gradient is the whole batch's; float16's optimizer has the one that clips inside
        getattr(model.optimizer, "inner_optimizer", model.optimizer).global_clipnorm = args.clip_norm
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables  # the dice of Dropout, too
    first, patience, rows, kept = 0, args.patience or args.epochs, [], args.run_folder
    if (kept / "state.npz").exists():
        first, *values = np.load(kept / "state.npz").values()
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        rows = [row for row in csv.DictReader((kept / "log.csv").open()) if int(row["epoch"]) <= first]

    def waited():  # since the best epoch
        losses = [float(row["val_loss"]) for row in rows] or [0]
        return len(losses) - 1 - losses.index(min(losses))

    def end(epoch, logs):
        rows.append({"epoch": epoch + 1} | logs)
        model.stop_training = waited() >= patience
        if waited() == 0:
            model.save_weights(folder / "best.weights.h5")
        lines = [",".join(map(str, line)) + "\n" for line in (rows[0], *map(dict.values, rows))]
        (folder / "log.csv").write_text("".join(lines))
        np.savez(folder / "new.npz", epoch + 1, *map(np.asarray, variables))
        (folder / "new.npz").replace(folder / "state.npz")  # all of it, or what was there before
        if index == 0:
            values = ", ".join(f"{name} {value:.4f}" for name, value in logs.items())
            print(f"epoch {epoch + 1}: {values}\n", end="", flush=True)  # a line at once: other workers print, too

    kept.mkdir(parents=True, exist_ok=True)
    options = {"initial_epoch": int(first), "epochs": args.epochs if waited() < patience else int(first)}
    options["callbacks"] = [keras.callbacks.LambdaCallback(lambda epoch, _: setattr(training, "epoch", epoch), end)]
    with tempfile.TemporaryDirectory() as thrown_away:  # all workers save together; what the first one writes is kept
        folder = kept if index == 0 else pathlib.Path(thrown_away)
        model.fit(training, validation_data=validation, shuffle=False, verbose=0, **options)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights())).hexdigest()[:16]
    print(f"worker {index}: epochs {first + 1} to {rows[-1]['epoch']}; weights {digest}\n", end="", flush=True)


if __name__ == "__main__":
    try:
        main(train.arguments())
    except Exception:  # another worker has died: at its end, JAX would wait for it for a minute and a half
        traceback.print_exc()
        os._exit(1)
