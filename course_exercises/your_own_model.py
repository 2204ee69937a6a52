"""What a reader's own `build` and `dataset` return, checked where they stand (notebook
06).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BATCH = "tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)"


def check_dataset(dataset: Callable[[int], Any]) -> None:
    """See that `dataset(batch_size)` returns two datasets of batches, to train on and
    to validate with.

    It is called with a batch of 2. Raises TypeError or ValueError, with the remedy, for
    one dataset in place of two, for arrays, for elements that are not (inputs, targets)
    or (inputs, targets, weights), and for single examples.
    """
    parts = dataset(2)
    if hasattr(parts, "element_spec"):
        raise TypeError(
            "dataset() must return two datasets, to train on and to validate with, "
            "and it returns one: return training, validation"
        )
    if not isinstance(parts, (tuple, list)) or len(parts) != 2:
        raise TypeError(
            "dataset() must return two datasets, to train on and to validate with, "
            f"and it returns {_words(parts)}"
        )
    for name, part in zip(("train on", "validate with"), parts, strict=True):
        if not hasattr(part, "element_spec"):
            raise TypeError(
                f"dataset() must return tf.data.Dataset, and what it returns to {name} "
                f"is {_words(part)}: {BATCH}"
            )
        _check_elements(part, name)


def _check_elements(part, name):
    import keras

    element = next(iter(part), None)
    if element is None:
        raise ValueError(f"dataset() returns nothing to {name}")
    if not isinstance(element, tuple) or len(element) not in (2, 3):
        raise ValueError(
            f"dataset(): what it returns to {name} must have (inputs, targets) or "
            "(inputs, targets, weights) as its elements, in a tuple, and they are "
            f"{_words(element)}"
        )
    arrays = keras.tree.flatten(element)
    lengths = {leaf.shape[0] if len(leaf.shape) else None for leaf in arrays}
    if len(lengths) != 1 or not lengths <= {1, 2}:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in arrays)
        raise ValueError(
            f"dataset(2) must return batches of 2 examples to {name}, and its first "
            f"element has arrays of shape {shapes}: is .batch(batch_size) forgotten?"
        )


def check_model(model: Any) -> None:
    """See that `build()` has returned a compiled Keras model.

    Raises TypeError or ValueError, with the remedy, for anything else.
    """
    import keras

    if not isinstance(model, keras.Model):
        raise TypeError(
            f"build() must return a Keras model, and it returns {_words(model)}: is "
            "'return model' missing?"
        )
    if not model.compiled:
        raise ValueError(
            "build() must return a compiled model: model.compile(optimizer, loss, "
            'metrics=["accuracy"])'
        )


def _words(value):
    """Return what something is, in words."""
    if isinstance(value, (tuple, list)):
        return (
            f"a {type(value).__name__} of {len(value)} "
            f"({', '.join(type(each).__name__ for each in value)})"
        )
    return "None" if value is None else f"of type {type(value).__name__}"
