"""The digits as arrays, MNIST without a network, and the pipeline.

The pipeline's numbers can be read.
"""

import errno
import pathlib
import socket
import types
import zlib

import keras
import numpy as np
import pytest
import sklearn.datasets

from course_utils import data

# load_digits: the small digits


@pytest.fixture(scope="module")
def digits():
    return data.load_digits()


def test_shapes_and_range(digits):
    for (images, labels), count in zip(digits, (1536, 261), strict=True):
        assert (images.shape, images.dtype) == ((count, 28, 28, 1), "float32")
        assert (labels.shape, labels.dtype) == ((count,), "int64")
        assert (images.min(), images.max()) == (0, 1)
        assert set(labels) == set(range(10))


def test_same_share_of_every_digit(digits):
    train, test = (np.bincount(labels) / len(labels) for _, labels in digits)
    assert np.abs(train - test).max() < 1 / 261


def test_the_same_everywhere(digits):
    assert [zlib.crc32(labels.astype("<i8").tobytes()) for _, labels in digits] == [
        2687568566,
        3691953239,
    ]


def test_every_digit_once_with_its_label(digits):
    places = (np.arange(28) + 0.5) * 8 / 28 - 0.5
    resize = np.stack([np.interp(places, range(8), unit) for unit in np.eye(8)], axis=1)
    shrink = np.linalg.pinv(resize)
    images, labels = (np.concatenate(parts) for parts in zip(*digits, strict=True))
    small = np.round(16 * (shrink @ images[..., 0] @ shrink.T))
    assert np.abs(resize @ small @ resize.T / 16 - images[..., 0]).max() < 1e-6
    bunch = sklearn.datasets.load_digits()
    assert pairs(small, labels) == pairs(bunch.images, bunch.target)


def pairs(images, labels):
    return sorted(zip(map(bytes, images.astype("uint8")), labels.tolist(), strict=True))


# load_digits: MNIST


@pytest.fixture
def fetch(monkeypatch, tmp_path):
    """Has Keras fetch MNIST into an empty cache by a function of the test's own."""

    def by(function):
        keras_home = types.SimpleNamespace(keras_home=lambda: str(tmp_path))
        monkeypatch.setitem(keras.utils.get_file.__globals__, "config", keras_home)
        monkeypatch.setitem(keras.utils.get_file.__globals__, "urlretrieve", function)
        return tmp_path / "datasets" / "mnist.npz"

    return by


def raising(problem):
    def fail(*_):
        raise problem

    return fail


def test_mnist_in_shape_and_scale(monkeypatch):
    images, labels = np.full((4, 28, 28), 51, "uint8"), np.arange(4, dtype="uint8")
    monkeypatch.setattr(
        keras.datasets.mnist,
        "load_data",
        lambda: ((images, labels), (images[:2], labels[:2])),
    )
    (x_train, y_train), (x_test, y_test) = data.load_digits("mnist")
    assert (x_train.shape, x_train.dtype, len(x_test)) == ((4, 28, 28, 1), "float32", 2)
    assert (
        np.allclose(x_train, 0.2)
        and y_train.tolist() == [0, 1, 2, 3]
        and y_test.dtype == "int64"
    )


def test_mnist_is_fetched_with_a_deadline_and_without_one_for_the_rest_of_the_process(
    fetch,
):
    before, deadlines = socket.getdefaulttimeout(), []

    def broken_off(address, path, progress):
        deadlines.append((socket.getdefaulttimeout(), pathlib.Path(path).exists()))
        pathlib.Path(path).write_bytes(b"PK" * 100)

    fetch(broken_off)
    for _ in range(
        2
    ):  # what the first try left behind is not taken for MNIST by the second
        with pytest.raises(
            RuntimeError,
            match=r"could not be downloaded: connect .*[Ii]ncomplete or corrupted",
        ):
            data.load_digits("mnist")
    assert (
        deadlines == [(30, False), (30, True)] and socket.getdefaulttimeout() == before
    )


@pytest.mark.parametrize(
    "problem, words",
    [
        (TimeoutError("timed out"), "connect to the network and run this again"),
        (EOFError(), r"connect to the network and run this again.*\(EOFError\)"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "free some space on the disk and run this again",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "let KERAS_HOME name a folder of your own",
        ),
    ],
)
def test_what_can_go_wrong_with_mnist(fetch, problem, words):
    fetch(raising(problem))
    with pytest.raises(
        RuntimeError, match=f"not in Keras' cache and could not be downloaded: {words}"
    ):
        data.load_digits("mnist")


# make_dataset

N = 10


def numbers(batch=3, count=N, **options):
    """The pipeline over `count` examples.

    The i-th of them has the image [i] and the label 10 i.
    """
    return data.make_dataset(
        np.arange(count)[:, None], 10 * np.arange(count), batch, **options
    )


def epoch(dataset):
    return [images[:, 0].tolist() for images, _ in dataset.as_numpy_iterator()]


def flat(batches):
    return [i for batch in batches for i in batch]


@pytest.mark.parametrize(
    "drop_remainder, sizes", [(True, [3, 3, 3]), (False, [3, 3, 3, 1])]
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches(drop_remainder, sizes, shuffle):
    dataset = numbers(drop_remainder=drop_remainder, shuffle=shuffle)
    batches = epoch(dataset)
    assert len(dataset) == len(sizes) and [len(batch) for batch in batches] == sizes
    assert len(set(flat(batches))) == sum(sizes)
    assert dataset.element_spec[0].shape.as_list() == [3 if drop_remainder else None, 1]


def test_labels_stay_with_their_images():
    for images, labels in numbers().as_numpy_iterator():
        assert (labels == 10 * images[:, 0]).all()


def test_order_is_seeded_and_the_same_every_epoch():
    dataset = numbers(10)
    first = epoch(dataset)
    assert flat(first) != list(range(N))
    assert (
        first
        == epoch(dataset)
        == epoch(numbers(10))
        == epoch(numbers(5, seed=0).unbatch().batch(10))
    )
    assert first != epoch(numbers(10, seed=1))


def test_reshuffle_draws_a_new_order_each_epoch():
    dataset = numbers(1000, count=1000, reshuffle=True)
    epochs = [flat(epoch(dataset)) for _ in range(3)]
    places = [
        np.argsort(order) for order in [*epochs, range(1000)]
    ]  # where each example comes
    assert np.abs(np.corrcoef(places)[np.triu_indices(4, 1)]).max() < 0.15
    again = numbers(1000, count=1000, reshuffle=True)
    assert epochs == [flat(epoch(again)) for _ in range(3)]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, ["cache", "batch", "prefetch"]),
        ({"cache": False}, ["batch", "prefetch"]),
        ({"prefetch": False}, ["cache", "batch"]),
        ({"reshuffle": True}, ["cache", "shuffle", "batch", "prefetch"]),
        ({"reshuffle": True, "shuffle": False}, ["cache", "batch", "prefetch"]),
    ],
)
def test_stages_in_the_order_that_counts(options, expected):
    dataset, stages = numbers(**options), []
    assert (
        not dataset.options().autotune.enabled
    )  # its thread can hold up the end of an iterator
    (dataset,) = dataset._inputs()
    while dataset._inputs():
        stages.insert(
            0, type(dataset).__name__.strip("_").removesuffix("Dataset").lower()
        )
        (dataset,) = dataset._inputs()
    assert stages == expected


@pytest.mark.parametrize("batch", [0, -1, N + 1, 2.0, True, "3", None])
def test_wrong_batch(batch):
    with pytest.raises(
        ValueError,
        match=(
            f"^global_batch_size={batch!r}: must be a whole number from 1 to {N} "
            f".the number of examples"
        ),
    ):
        numbers(batch)


def test_wrong_lengths():
    with pytest.raises(ValueError, match=r"^labels: 3 labels for 4 images"):
        data.make_dataset(np.zeros((4, 1)), np.zeros(3), 2)
