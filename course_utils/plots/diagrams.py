"""The drawings that several notebooks share: a training step, pictures in a grid."""

from typing import Any

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


@styled()
def training_step(
    devices: list,
    examples: int | list,
    title: str,
    gradient_bytes: int = 0,
    optimizer: bool = True,
    numbers: dict | None = None,
    combined: str = "averaged",
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
        combined: what the all-reduce does: "averaged" or "added up".
    """
    sizes = (
        list(examples)
        if isinstance(examples, (list, tuple))
        else [examples] * len(devices)
    )
    if len(sizes) != len(devices):
        raise ValueError(
            f"examples={examples!r}: must be one number, or one for each of the "
            f"{len(devices)} devices"
        )
    several = len(devices) > 1
    rows = [
        ("inputs", "{} examples", "images, labels"),
        ("activations", "forward: activations", "model(images, training=True)"),
        ("gradients", "backward: gradients", "tape.gradient(loss, …)"),
        ("travels", "", ""),
        ("gradients", "batch's gradient", ""),
        ("optimizer", "optimizer: moments", "optimizer.apply_gradients(…)"),
        ("weights", "update: new weights", "model.trainable_variables"),
    ]
    rows = [
        row
        for row in rows
        if (several or row[2]) and (optimizer or row[0] != "optimizer")
    ]
    numbers, names = numbers or {}, [text.split(": ")[-1] for _, text, _ in rows]
    if unknown := set(numbers) - set(names):
        raise ValueError(
            f"numbers: no box is called {' or '.join(map(repr, sorted(unknown)))}"
        )
    height = 0.7 + 0.56 * len(rows)
    bottoms = [height - 0.95 - 0.56 * k for k in range(len(rows))]
    figure, axes = canvas(title, height)
    side, width, inset = 0.1, 7.0 if several else 3.5, 0.18 if several else 0.45
    for index, left, span in device_row(
        axes, devices, side, side, width, height - 2 * side
    ):
        middle = left + span / 2
        for k, ((what, text, code), bottom) in enumerate(
            zip(rows, bottoms, strict=True)
        ):
            if k:
                look: dict[str, Any] = {}
                if "travels" in (what, rows[k - 1][0]):
                    look = {"fill": COLOURS["travels"], "width": 2.4}
                arrow(axes, (middle, bottoms[k - 1]), (middle, bottom + 0.36), **look)
            if what != "travels":
                words = text.format(sizes[index])
                short = words.split(": ")[-1]
                words = (
                    numbers[short][index]
                    if short in numbers
                    else short
                    if len(devices) > 2
                    else words
                )
                box(
                    axes,
                    left + inset,
                    bottom,
                    span - 2 * inset,
                    0.36,
                    colour(what),
                    words,
                )
            if not several:
                axes.text(
                    3.9,
                    bottom + 0.18,
                    code,
                    va="center",
                    family="monospace",
                    color=MUTED,
                )
    if several:
        text = (
            f"all-reduce: {gradient_bytes / 2**20:.1f} MiB of gradients from each "
            f"device, {combined}, back to each"
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
