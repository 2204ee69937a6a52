"""The one model: the source page's network, with the same weights wherever built."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from course_utils.model import build_model


def test_the_source_pages_network():
    model = build_model()
    assert [layer.name for layer in model.layers] == [
        "conv",
        "pool",
        "flatten",
        "hidden",
        "logits",
    ]
    assert [layer.output.shape[1:] for layer in model.layers] == [
        (26, 26, 32),
        (13, 13, 32),
        (5408,),
        (128,),
        (10,),
    ]
    assert [
        getattr(layer, "activation", keras.activations.linear).__name__
        for layer in model.layers
    ] == [
        "relu",
        "linear",
        "linear",
        "relu",
        "linear",
    ]
    assert model.count_params() == 693_962
    assert model.name == "digits_cnn" and not model.compiled


def test_shapes():
    logits = build_model()(np.zeros((3, 28, 28, 1), "float32"))
    assert (logits.shape, logits.dtype) == ((3, 10), "float32")


STRATEGIES = {
    "one device": lambda: tf.distribute.OneDeviceStrategy("CPU:3"),
    "two replicas": lambda: tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    ),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_weights_under_every_strategy(strategy):
    expected = build_model(7).get_weights()
    strategy = STRATEGIES[strategy]()
    with strategy.scope():
        model = build_model(7)
    for weight, there in zip(model.weights, expected, strict=True):
        copies = strategy.experimental_local_results(weight.value)
        assert len(copies) == strategy.num_replicas_in_sync
        assert all(np.array_equal(copy, there) for copy in copies)


def test_global_random_state_is_untouched():
    def draws(between):
        keras.utils.set_random_seed(1)
        between()
        drawn = (
            random.random(),
            np.random.rand(),
            tf.random.uniform(()),
            keras.random.uniform(()),
        )
        return [float(number) for number in drawn]

    assert (
        draws(build_model)
        == draws(lambda: None)
        != draws(lambda: (np.random.rand(), random.random()))
    )


def test_no_two_kernels_begin_alike_in_three_seeds():
    kernels = [
        kernel for seed in (0, 1, 2) for kernel in build_model(seed).get_weights()[::2]
    ]
    starts = {
        tuple(np.round(kernel.flat[:8] / np.abs(kernel).max(), 1)) for kernel in kernels
    }
    assert len(starts) == 9
