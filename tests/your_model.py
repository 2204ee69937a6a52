"""Notebook 06 with eight other models and data in its two cells: it must reach its end, whatever stands there."""

import os
import pathlib
import subprocess

import nbclient
import nbformat
import pytest

PATH = pathlib.Path(__file__).resolve().parent.parent / "notebooks" / "06_your_own_model.ipynb"

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
    return parts.take(512).batch(batch_size, drop_remainder=True), parts.skip(512).batch(batch_size)
"""
CASES = {
    "a transformer classifier": (
        """
def build():
    tokens = keras.Input((16,), dtype="int32")
    x = L.Embedding(50, 32)(tokens)
    x = L.Add()([x, L.MultiHeadAttention(2, 16, dropout=0.1)(L.LayerNormalization()(x), x)])
    x = L.Add()([x, L.Dense(32)(L.Dense(64, "gelu")(L.LayerNormalization()(x)))])
    model = keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(x)))
    model.compile(keras.optimizers.AdamW(1e-3, clipnorm=1.0), classes(), metrics=["accuracy"])
    return model
""",
        '(random.randint(50, size=(600, 16)).astype("int32"), random.randint(3, size=600))',
    ),
    "an LSTM": (
        """
def build():
    layers = [L.Embedding(50, 16, mask_zero=True), L.LSTM(24, dropout=0.2, recurrent_dropout=0.1), L.Dense(3)]
    model = keras.Sequential([keras.Input((12,), dtype="int32"), *layers])
    model.compile("rmsprop", classes(), metrics=["accuracy"])
    return model
""",
        '(random.randint(50, size=(600, 12)).astype("int32"), random.randint(3, size=600))',
    ),
    "two inputs": (
        """
def build():
    image, number = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="number")
    x = L.Flatten()(L.Conv2D(8, 3, strides=2)(image))
    model = keras.Model({"image": image, "number": number}, L.Dense(3)(L.Concatenate()([x, L.Dense(8)(number)])))
    model.compile("adam", classes(), metrics=["accuracy"])
    return model
""",
        '({"image": random.rand(600, 8, 8, 3).astype("float32"), "number": random.rand(600, 4).astype("float32")},'
        " random.randint(3, size=600))",
    ),
    "a regression, weighted, with a schedule": (
        """
def build():
    model = keras.Sequential([keras.Input((13,)), L.Dense(64, "relu"), L.GaussianNoise(0.1), L.Dense(1)])
    rate = keras.optimizers.schedules.CosineDecay(0.05, 100)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=5.0), "mse", weighted_metrics=["mae"])
    return model
""",
        '(random.rand(599, 13).astype("float32"), 100 * random.rand(599, 1).astype("float32"),'
        ' random.rand(599).astype("float32"))',  # 87 to validate with, which no two replicas share equally
    ),
    "an output per pixel": (
        """
class Net(keras.Model):  # a subclass, built when it is first called
    def __init__(self):
        super().__init__()
        self.down, self.up = L.Conv2D(8, 3, 2, "same", activation="relu"), L.Conv2DTranspose(2, 3, 2, "same")
        self.normal = L.BatchNormalization()
    def call(self, inputs, training=False):
        return self.up(self.normal(self.down(inputs), training=training))

def build():
    model = Net()
    model.compile("adam", classes(), metrics=["accuracy"])
    return model
""",
        '(random.rand(600, 16, 16, 1).astype("float32"), random.randint(2, size=(600, 16, 16)))',
    ),
    "two outputs": (
        """
def build():
    inputs = keras.Input((10,))
    x = L.Dropout(0.3)(L.Dense(32, "relu", kernel_regularizer="l2")(inputs))
    model = keras.Model(inputs, {"kind": L.Dense(3, name="kind")(x), "size": L.Dense(1, name="size")(x)})
    model.compile("adam", {"kind": classes(), "size": "mse"}, metrics={"kind": "accuracy"})
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

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
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
    return parts.take(512).batch(batch_size, drop_remainder=True), parts.skip(512).batch(batch_size)
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
        cells["your-model"].source, cells["your-data"].source = BEGINNING + model, DATA.replace("{}", data)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute(cwd=str(PATH.parent), stderr=subprocess.DEVNULL)
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    print(said)
    assert "ran out of data" not in str(notebook.cells)
    assert said.count("✓ (measured") >= 3 and "the digest of its weights ✓" in said
