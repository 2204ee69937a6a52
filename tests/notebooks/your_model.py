"""Notebook 06 with eight other models and data in its two cells.

It must reach its end, whatever stands there.
"""

import os
import pathlib
import subprocess

import nbclient
import nbformat
import pytest

PATH = (
    pathlib.Path(__file__).resolve().parents[2]
    / "notebooks"
    / "06_your_own_model.ipynb"
)

BEGINNING = """
import keras, numpy as np, tensorflow as tf
from keras import layers as L

def classes(count=3):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
"""
DATA = """
import numpy as np, tensorflow as tf

def made():
    random = np.random.RandomState(0)
    return {}

def dataset(batch_size):
    parts = tf.data.Dataset.from_tensor_slices(made())
    training = parts.take(512).batch(batch_size, drop_remainder=True)
    return training, parts.skip(512).batch(batch_size)
"""
CASES = {
    "a transformer classifier": (
        """
def build():
    tokens = keras.Input((16,), dtype="int32")
    x = L.Embedding(50, 32)(tokens)
    attention = L.MultiHeadAttention(2, 16, dropout=0.1)
    x = L.Add()([x, attention(L.LayerNormalization()(x), x)])
    x = L.Add()([x, L.Dense(32)(L.Dense(64, "gelu")(L.LayerNormalization()(x)))])
    model = keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(x)))
    optimizer = keras.optimizers.AdamW(1e-3, clipnorm=1.0)
    model.compile(optimizer, classes(), metrics=["accuracy"])
    return model
""",
        (
            '(random.randint(50, size=(600, 16)).astype("int32"), '
            "random.randint(3, size=600))"
        ),
    ),
    "an LSTM": (
        """
def build():
    model = keras.Sequential([
        keras.Input((12,), dtype="int32"),
        L.Embedding(50, 16, mask_zero=True),
        L.LSTM(24, dropout=0.2, recurrent_dropout=0.1),
        L.Dense(3),
    ])
    model.compile("rmsprop", classes(), metrics=["accuracy"])
    return model
""",
        (
            '(random.randint(50, size=(600, 12)).astype("int32"), '
            "random.randint(3, size=600))"
        ),
    ),
    "two inputs": (
        """
def build():
    image = keras.Input((8, 8, 3), name="image")
    number = keras.Input((4,), name="number")
    x = L.Flatten()(L.Conv2D(8, 3, strides=2)(image))
    x = L.Concatenate()([x, L.Dense(8)(number)])
    model = keras.Model({"image": image, "number": number}, L.Dense(3)(x))
    model.compile("adam", classes(), metrics=["accuracy"])
    return model
""",
        '({"image": random.rand(600, 8, 8, 3).astype("float32"),'
        ' "number": random.rand(600, 4).astype("float32")},'
        " random.randint(3, size=600))",
    ),
    "a regression, weighted, with a schedule": (
        """
def build():
    layers = [L.Dense(64, "relu"), L.GaussianNoise(0.1), L.Dense(1)]
    model = keras.Sequential([keras.Input((13,)), *layers])
    rate = keras.optimizers.schedules.CosineDecay(0.05, 100)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=5.0)
    model.compile(optimizer, "mse", weighted_metrics=["mae"])
    return model
""",
        # 87 to validate with, which no two replicas share equally
        '(random.rand(599, 13).astype("float32"),'
        ' 100 * random.rand(599, 1).astype("float32"),'
        ' random.rand(599).astype("float32"))',
    ),
    "an output per pixel": (
        """
class Net(keras.Model):  # a subclass, built when it is first called
    def __init__(self):
        super().__init__()
        self.down = L.Conv2D(8, 3, 2, "same", activation="relu")
        self.up = L.Conv2DTranspose(2, 3, 2, "same")
        self.normal = L.BatchNormalization()
    def call(self, inputs, training=False):
        return self.up(self.normal(self.down(inputs), training=training))

def build():
    model = Net()
    model.compile("adam", classes(), metrics=["accuracy"])
    return model
""",
        (
            '(random.rand(600, 16, 16, 1).astype("float32"), '
            "random.randint(2, size=(600, 16, 16)))"
        ),
    ),
    "two outputs": (
        """
def build():
    inputs = keras.Input((10,))
    x = L.Dropout(0.3)(L.Dense(32, "relu", kernel_regularizer="l2")(inputs))
    kind, size = L.Dense(3, name="kind")(x), L.Dense(1, name="size")(x)
    model = keras.Model(inputs, {"kind": kind, "size": size})
    losses = {"kind": classes(), "size": "mse"}
    model.compile("adam", losses, metrics={"kind": "accuracy"})
    return model
""",
        '(random.rand(600, 10).astype("float32"), {"kind": random.randint(3, size=600),'
        ' "size": random.rand(600, 1).astype("float32")})',
    ),
    "200 arrays": (
        """
class Many(L.Layer):
    def build(self, shape):
        self.parts = [self.add_weight(shape=(16,)) for _ in range(198)]
    def call(self, inputs):
        return inputs + sum(self.parts) / 198

def build():
    model = keras.Sequential([keras.Input((16,)), Many(), L.Dense(3)])
    model.compile("adam", classes(), metrics=["accuracy"])
    return model
""",
        '(random.rand(600, 16).astype("float32"), random.randint(3, size=600))',
    ),
}


INSIDE = "imports inside of both functions"
CASES[INSIDE] = (
    """
def build():
    import keras

    layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd", "mse")
    return model
""",
    """
def dataset(batch_size):
    import numpy as np
    import tensorflow as tf

    random = np.random.RandomState(0)
    x = random.rand(600, 4).astype("float32")
    parts = tf.data.Dataset.from_tensor_slices((x, x[:, :1]))
    training = parts.take(512).batch(batch_size, drop_remainder=True)
    return training, parts.skip(512).batch(batch_size)
""",
)
QUICK = (
    INSIDE,
    "two inputs",
    "a regression, weighted, with a schedule",
    "an output per pixel",
)  # CI has 75 minutes in all


@pytest.mark.parametrize("case", QUICK if os.environ.get("CI") else CASES)
def test_the_notebook_reaches_its_end_with(case, monkeypatch):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "-1")
    model, data = CASES[case]
    notebook = nbformat.read(PATH, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    if case == INSIDE:
        cells["your-model"].source, cells["your-data"].source = model, data
    else:
        cells["your-model"].source, cells["your-data"].source = (
            BEGINNING + model,
            DATA.replace("{}", data),
        )
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute(cwd=str(PATH.parent), stderr=subprocess.DEVNULL)
    said = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    print(said)
    assert "ran out of data" not in str(notebook.cells)
    assert said.count("✓ (measured") >= 3 and "the digest of its weights ✓" in said
