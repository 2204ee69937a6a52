"""The drawings that several notebooks share: a training step, pictures in a grid."""

from typing import Any, NamedTuple

from course_utils.language import marked, translated as _
from course_utils.plots.style import (
    COLOURS,
    INK,
    MUTED,
    Figure,
    arrow,
    box,
    canvas,
    colour,
    device_row,
    new_axes,
    styled,
)


class Row(NamedTuple):
    """A row of a training step's drawing.

    Attributes:
        colour: a key of COLOURS.
        name: what `numbers` calls it.
        text, short: what its box says where there is room, and where there is little.
        code: what does it, beside a single device.
    """

    colour: str
    name: str
    text: str
    short: str
    code: str


STEP = (
    Row(
        "inputs",
        "examples",
        marked("{count} examples"),
        marked("{count} examples"),
        "images, labels",
    ),
    Row(
        "activations",
        "activations",
        marked("forward: activations"),
        marked("activations"),
        "model(images, training=True)",
    ),
    Row(
        "gradients",
        "gradients",
        marked("backward: gradients"),
        marked("gradients"),
        "tape.gradient(loss, …)",
    ),
    Row("travels", "", "", "", ""),
    Row(
        "gradients",
        "batch's gradient",
        marked("batch's gradient"),
        marked("batch's gradient"),
        "",
    ),
    Row(
        "optimizer",
        "moments",
        marked("optimizer: moments"),
        marked("moments"),
        "optimizer.apply_gradients(…)",
    ),
    Row(
        "weights",
        "new weights",
        marked("update: new weights"),
        marked("new weights"),
        "model.trainable_variables",
    ),
)


def _for_each_device(examples, devices):
    sizes = [examples] * len(devices)
    if isinstance(examples, (list, tuple)):
        sizes = list(examples)
    if len(sizes) != len(devices):
        raise ValueError(
            _(
                "examples={examples!r}: must be one number, or one for each of the "
                "{count} devices",
                examples=examples,
                count=len(devices),
            )
        )
    return sizes


def _rows_of_step(several, optimizer, numbers):
    """Return the rows to be drawn, among which are those that `numbers` names."""
    rows = [row for row in STEP if optimizer or row.colour != "optimizer"]
    if not several:
        rows = [row for row in rows if row.code]
    if unknown := set(numbers) - {row.name for row in rows}:
        raise ValueError(
            _(
                "numbers: no box is called {names}",
                names=_(" or ").join(map(repr, sorted(unknown))),
            )
        )
    return rows


@styled()
def training_step(
    devices: list,
    examples: int | list,
    title: str,
    gradient_bytes: int = 0,
    optimizer: bool = True,
    numbers: dict | None = None,
    combined: str = "",
) -> Figure:
    """Draw one training step, a column for each device.

    With several there is the all-reduce of the gradients across them.

    Args:
        devices: their names.
        examples: in each device's part of the batch: one number for all, or a list with
            one for each.
        title: the finding.
        gradient_bytes: of one device's gradients.
        optimizer: whether the update goes through moments.
        numbers: `{"gradients": [text, one a device], …}`, to stand in these boxes
            instead of their names.
        combined: what the all-reduce does with gradients; "averaged" by default.
    """
    sizes = _for_each_device(examples, devices)
    several = len(devices) > 1
    is_narrow = len(devices) > 2
    numbers = numbers or {}
    rows = _rows_of_step(several, optimizer, numbers)
    height = 0.7 + 0.56 * len(rows)
    bottoms = [height - 0.95 - 0.56 * k for k in range(len(rows))]
    figure, axes = canvas(title, height)
    side, width, inset = 0.1, 7.0 if several else 3.5, 0.18 if several else 0.45
    for index, left, span in device_row(
        axes, devices, side, side, width, height - 2 * side
    ):
        middle = left + span / 2
        for k, (row, bottom) in enumerate(zip(rows, bottoms, strict=True)):
            if k:
                look: dict[str, Any] = {}
                if "travels" in (row.colour, rows[k - 1].colour):
                    look = {"fill": COLOURS["travels"], "width": 2.4}
                arrow(axes, (middle, bottoms[k - 1]), (middle, bottom + 0.36), **look)
            if row.colour != "travels":
                words = _(row.short if is_narrow else row.text, count=sizes[index])
                if row.name in numbers:
                    words = numbers[row.name][index]
                place = left + inset, bottom, span - 2 * inset, 0.36
                box(axes, *place, colour(row.colour), words)
            if not several:
                look = {"va": "center", "family": "monospace", "color": MUTED}
                axes.text(3.9, bottom + 0.18, row.code, **look)
    if several:
        text = _(
            "all-reduce: {size:.1f} MiB of gradients from each device, {combined}, "
            "back to each",
            size=gradient_bytes / 2**20,
            combined=combined or _("averaged"),
        )
        bar = side + inset, bottoms[3], width - 2 * inset, 0.36
        box(axes, *bar, COLOURS["travels"], text, weight="bold")
    else:  # the weights of this step are those of the next step's forward pass
        first, last = bottoms[1] + 0.18, bottoms[-1] + 0.18
        axes.plot([0.55, 0.33, 0.33], [last, last, first], color=INK, lw=1.4)
        arrow(axes, (0.33, first), (0.55, first))
    return figure


@styled()
def images(rows: dict, title: str, names: list | None = None) -> Figure:
    """Show pictures in a grid: `{row's name: [image (height, width), …]}`, all on one
    scale of grey.

    names: a text above each column.
    """
    flat = [image for row in rows.values() for image in row]
    scale = {
        "vmin": min(float(image.min()) for image in flat),
        "vmax": max(float(image.max()) for image in flat),
    }
    count = max(map(len, rows.values()))
    figure, grid = new_axes(
        title, 0.6 + 1.2 * len(rows), nrows=len(rows), ncols=count, squeeze=False
    )
    for axes_of_row, (name, row) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(axes_of_row, row, strict=True):
            axes.imshow(image, cmap="gray_r", **scale)
            axes.set(xticks=[], yticks=[])
        axes_of_row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, name in zip(grid[0], names or [], strict=False):
        axes.set_title(name, loc="center", size=10)
    return figure
