"""What a reader's own `build` and `dataset` return, checked where they stand (notebook
06).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from course_utils.language import translated as _

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
            _(
                "dataset() must return two datasets, to train on and to "
                "validate with, and it returns one: return training, validation"
            )
        )
    if not isinstance(parts, (tuple, list)) or len(parts) != 2:
        raise TypeError(
            _(
                "dataset() must return two datasets, to train on and to "
                "validate with, and it returns {parts}",
                parts=_words(parts),
            )
        )
    for name, part in zip((_("train on"), _("validate with")), parts, strict=True):
        if not hasattr(part, "element_spec"):
            raise TypeError(
                _(
                    "dataset() must return tf.data.Dataset, and what it "
                    "returns to {name} is {part}: {example}",
                    name=name,
                    part=_words(part),
                    example=BATCH,
                )
            )
        _check_elements(part, name)


def _check_elements(part, name):
    import keras

    element = next(iter(part), None)
    if element is None:
        raise ValueError(_("dataset() returns nothing to {name}", name=name))
    if not isinstance(element, tuple) or len(element) not in (2, 3):
        raise ValueError(
            _(
                "dataset(): what it returns to {name} must have (inputs, "
                "targets) or (inputs, targets, weights) as its elements, in a "
                "tuple, and they are {element}",
                name=name,
                element=_words(element),
            )
        )
    arrays = keras.tree.flatten(element)
    lengths = {leaf.shape[0] if len(leaf.shape) else None for leaf in arrays}
    if len(lengths) != 1 or not lengths <= {1, 2}:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in arrays)
        raise ValueError(
            _(
                "dataset(2) must return batches of 2 examples to {name}, and "
                "its first element has arrays of shape {shapes}: is "
                ".batch(batch_size) forgotten?",
                name=name,
                shapes=shapes,
            )
        )


def check_model(model: Any) -> None:
    """See that `build()` has returned a compiled Keras model.

    Raises TypeError or ValueError, with the remedy, for anything else.
    """
    import keras

    if not isinstance(model, keras.Model):
        raise TypeError(
            _(
                "build() must return a Keras model, and it returns {model}: is "
                "'return model' missing?",
                model=_words(model),
            )
        )
    if not model.compiled:
        raise ValueError(
            _(
                "build() must return a compiled model: "
                'model.compile(optimizer, loss, metrics=["accuracy"])'
            )
        )


def _words(value):
    """Return what something is, in words."""
    if isinstance(value, (tuple, list)):
        return _(
            "a {kind} of {count} ({types})",
            kind=type(value).__name__,
            count=len(value),
            types=", ".join(type(each).__name__ for each in value),
        )
    return "None" if value is None else _("of type {kind}", kind=type(value).__name__)
