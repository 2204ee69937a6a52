"""A model of text on paper: a transformer's layers, without building it."""

from course_planner.layers import LayerCost, checkpointed
from course_utils.arguments import whole_number


def transformer(
    blocks: int,
    width: int,
    tokens: int = 2048,
    *,
    vocabulary: int = 0,
    recomputed: bool = False,
) -> list[LayerCost]:
    """Return the layers of a transformer like GPT-3, by its published sizes.

    A block has 12 x width**2 weights in four matrices (biases and normalization are
    left out) and FLOPs of 2 for each weight and token, and attention's two products
    4 x tokens**2 x width (Kaplan et al., 2020; Narayanan et al., 2021, appendix). It
    keeps 16 values for each token and unit of width; attention's weights of each pair
    of tokens are not among them, as for FlashAttention (Dao et al., 2022), which
    computes them in tiles. Heads are 128 wide.

    Args:
        blocks: how many.
        width: of a token's vector.
        tokens: of an example.
        vocabulary: words; 0 leaves out the table of words and the matrix at the end,
            which has weights of its own here.
        recomputed: whether each block's activations are computed again.

    Raises:
        ValueError: unless all are whole numbers, from 1 up (vocabulary: from 0).
    """
    blocks = whole_number("blocks", blocks, 1)
    width, tokens = whole_number("width", width, 1), whole_number("tokens", tokens, 1)
    words = whole_number("vocabulary", vocabulary)

    def matrix(name, weights, outputs, kept):
        """All in width**2 (weights) or in width, for each token."""
        return LayerCost(
            name,
            weights * width**2,
            outputs * tokens * width,
            2 * tokens * weights * width**2,
            kept=kept * tokens * width,
            units=max(1, width // 128),  # heads of 128: no head is cut
        )

    values = tokens * width
    pairs = LayerCost("attention", 0, values, 4 * tokens**2 * width, "elementwise")
    block = [
        matrix("queries, keys, values", 3, 3, 3),
        pairs,
        matrix("projection", 1, 1, 2),
        matrix("up", 4, 4, 8),
        matrix("down", 4, 1, 2),
    ]
    layers = block * blocks
    if recomputed:
        layers = checkpointed(layers, blocks)
    if words:
        table = LayerCost("words", words * width, values, 0, "whole", kept=0)
        back = LayerCost(
            "back to words",
            words * width,
            tokens * words,
            2 * words * values,
            units=words,
        )
        layers = [table, *layers, back]
    return layers
