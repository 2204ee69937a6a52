"""The digits: as arrays, and as a tf.data pipeline."""

# make_dataset's options are keywords; notebook 00 prints it, without this remark.
# ruff: noqa: PLR0913

import errno
import socket
from typing import Any

from course_utils.arguments import one_of
from course_utils.language import translated as _


def load_digits(name: str = "digits") -> tuple[tuple, tuple]:
    """Return handwritten digits in MNIST's shape and scale.

    Args:
        name: "digits", scikit-learn's 1,797 real 8×8 digits resized to 28×28, split
            into 1,536 to train on and 261 to test on, with the same share of every
            digit in both (needs no network; the same everywhere); or "mnist", the
            60,000 + 10,000 of MNIST, downloaded by Keras once and kept in its cache.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images float32 (N, 28, 28, 1) in [0, 1],
        labels int64 (N,).

    Raises: ValueError: for another name. RuntimeError: with the remedy, when MNIST is
        neither cached nor can be downloaded.
    """
    if one_of("name", name, ("digits", "mnist")) == "mnist":
        return _mnist()
    return _small_digits()


def _small_digits():
    import scipy.ndimage
    import sklearn.datasets
    import sklearn.model_selection

    bunch: Any = sklearn.datasets.load_digits()
    images: Any = scipy.ndimage.zoom(
        bunch.images / 16, (1, 3.5, 3.5), order=1, mode="nearest", grid_mode=True
    )
    images, labels = images.astype("float32")[..., None], bunch.target.astype("int64")
    split: Any = sklearn.model_selection.train_test_split
    x_train, x_test, y_train, y_test = split(  # 1,536: 3 batches of 512
        images, labels, train_size=1536, stratify=labels, random_state=0
    )
    return (x_train, y_train), (x_test, y_test)


def _mnist():
    import keras

    deadline = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # Keras would wait for a network without end
    try:
        # checks what it finds or fetches
        train, test = keras.datasets.mnist.load_data()
    # a network has many ways to fail, and Keras raises a bare Exception
    except Exception as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        ways = {
            errno.ENOSPC: _("free some space on the disk"),
            errno.EACCES: _("let KERAS_HOME name a folder of your own"),
        }
        way = ways.get(getattr(problem, "errno", 0), _("connect to the network"))
        raise RuntimeError(
            _(
                "MNIST is not in Keras' cache and could not be downloaded: "
                '{way} and run this again, or set DATASET = "digits", which '
                "needs none of this ({reason})",
                way=way,
                reason=reason[:200],
            )
        ) from None
    finally:
        socket.setdefaulttimeout(deadline)
    (x_train, y_train), (x_test, y_test) = train, test
    return _scaled(x_train, y_train), _scaled(x_test, y_test)


def _scaled(images, labels):
    return (images / 255).astype("float32")[..., None], labels.astype("int64")


def make_dataset(
    images,
    labels,
    global_batch_size: int,
    *,
    cache: bool = True,
    shuffle: bool = True,
    seed: int = 0,
    reshuffle: bool = False,
    drop_remainder: bool = True,
    prefetch: bool = True,
):
    """Return the tf.data pipeline that the whole course trains from.

    Args:
        images, labels: arrays of equal length N.
        global_batch_size: examples per step over all replicas together; a strategy
            divides it among them.
        cache: keep the examples in memory after the first pass.
        shuffle, seed: take the examples in a random order that the seed alone decides.
        reshuffle: draw a new order each epoch. Better for learning; off here, because
            `fit` under a strategy draws one extra iterator, so that its epochs would
            see other orders than without one.
        drop_remainder: leave out a last, smaller batch, so that every step has the same
            shape on every replica.
        prefetch: prepare the next batches while the device computes.

    Returns:
        A `tf.data.Dataset` of batches `(images, labels)`.

    Raises:
        ValueError: when the lengths differ, or when the batch is not a whole number
            between 1 and N.
    """
    import numpy as np
    import tensorflow as tf

    images, labels = np.asarray(images), np.asarray(labels)
    count = len(images)
    if len(labels) != count:
        raise ValueError(
            f"labels: {len(labels)} labels for {count} images; there must be one for "
            "each"
        )
    is_whole = hasattr(global_batch_size, "__index__") and not isinstance(
        global_batch_size, bool
    )
    if not is_whole or not 1 <= global_batch_size <= count:
        raise ValueError(
            f"global_batch_size={global_batch_size!r}: must be a whole number from 1 "
            f"to {count} (the number of examples)"
        )
    if shuffle:
        order = np.random.RandomState(seed).permutation(count)
        images, labels = images[order], labels[order]
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    if cache:
        dataset = dataset.cache()
    if shuffle and reshuffle:
        dataset = dataset.shuffle(count, seed=seed)
    dataset = dataset.batch(global_batch_size, drop_remainder=drop_remainder)
    if prefetch:
        dataset = dataset.prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.autotune.enabled = (
        False  # nothing to tune here, and its thread can hold up the end of an iterator
    )
    return dataset.with_options(options)
