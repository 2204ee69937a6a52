"""The one model that every notebook trains."""

# Keras' arguments have the types of their defaults: of an initializer, text.
# pyright: reportArgumentType=false


def build_model(seed: int = 0):
    """Return the source page's network for 28×28×1 images.

    Conv2D 32 → MaxPooling2D → Flatten → Dense 128 → Dense 10 (logits). Not compiled:
    build and compile it inside `strategy.scope()`.

    Args:
        seed: the same one gives the same initial weights under every strategy and on
            every device: each layer's initializer carries a seed of its own.

    Returns:
        A model of (batch, 28, 28, 1) float32 → (batch, 10).

    Raises:
        TypeError: if the seed is no whole number.
    """
    import operator

    import keras

    seed = operator.index(seed)  # NumPy's whole numbers, too
    first, second, third = (
        keras.initializers.GlorotUniform(seed=3 * seed + i) for i in range(3)
    )
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(
                32, (3, 3), activation="relu", kernel_initializer=first, name="conv"
            ),
            keras.layers.MaxPooling2D((2, 2), name="pool"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(
                128, activation="relu", kernel_initializer=second, name="hidden"
            ),
            keras.layers.Dense(10, kernel_initializer=third, name="logits"),
        ],
        name="digits_cnn",
    )
