"""Drawings that explain: what lives where, a training step, the ring, a split layer, a decision."""

from course_utils.plots.style import COLOURS, INK, MUTED, arrow, box, canvas, colour, label, new_axes, styled


@styled()
def digits(images, labels, title):
    """A strip of images, two rows, each with its label. images: (N, 28, 28, 1) in [0, 1], N even; labels: (N,)."""
    figure, axes = new_axes(title, 2.4, nrows=2, ncols=len(images) // 2)
    for cell, image, digit in zip(axes.flat, images, labels, strict=True):
        cell.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
        cell.set_title(str(digit), size=10, loc="center", pad=3, color=MUTED)
        cell.axis("off")
    return figure


def _devices(axes, names, left, bottom, width, height):
    """Draw devices side by side, and yield each one's index, left edge and width.

    Of more than four, the first, the second and the last, and dots for those between.
    """
    drawn = range(len(names)) if len(names) <= 4 else (0, 1, None, len(names) - 1)
    span = width / len(drawn)
    for i, index in enumerate(drawn):
        start, middle = left + i * span, left + (i + 0.5) * span
        if index is None:
            label(axes, middle, bottom + 0.75 * height, f"…\n{len(names) - 3} more", color=MUTED)
            continue
        box(axes, start + 0.06, bottom, span - 0.12, height)
        label(axes, middle, bottom + height - 0.2, names[index], weight="bold")
        yield index, start, span


@styled()
def placement(devices, title, process="this process"):
    """What lives where: `{device name: [(text, what), …]}` with what a key of COLOURS; a dashed box for the process."""
    contents, row = list(devices.values()), 0.42
    height = 1.35 + row * max(1, *map(len, contents))
    figure, axes = canvas(title, height)
    box(axes, 0.06, 0.06, 7.08, height - 0.12, dashed=True)
    axes.text(0.22, height - 0.17, process, va="top", size=10, color=MUTED)
    for index, left, span in _devices(axes, list(devices), 0.2, 0.2, 6.8, height - 0.7):
        for k, (text, what) in enumerate(contents[index]):
            look = {"fill": colour(what), "text": text, "size": 10 if len(devices) < 4 else 9}
            box(axes, left + 0.14, height - 0.84 - row * (k + 1), span - 0.28, row - 0.08, **look)
        if not contents[index]:
            label(axes, left + span / 2, height - 0.92 - row / 2, "nothing", color=MUTED)
    return figure


@styled()
def training_step(devices, examples, title, gradient_bytes=0, optimizer=True, numbers=None):
    """One training step, a column for each device; with several, the all-reduce of the gradients across them.

    examples: in each device's part of the batch: one number for all, or a list with one for each.
    gradient_bytes: of one device's gradients. optimizer: whether the update goes through moments.
    numbers: `{"gradients": [text, one a device], …}`, to stand in these boxes instead of their names.
    """
    sizes = list(examples) if isinstance(examples, (list, tuple)) else [examples] * len(devices)
    if len(sizes) != len(devices):
        raise ValueError(f"examples={examples!r}: must be one number, or one for each of the {len(devices)} devices")
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
    rows = [row for row in rows if (several or row[2]) and (optimizer or row[0] != "optimizer")]
    numbers, names = numbers or {}, [text.split(": ")[-1] for _, text, _ in rows]
    if unknown := set(numbers) - set(names):
        raise ValueError(f"numbers: no box is called {' or '.join(map(repr, sorted(unknown)))}")
    height = 0.7 + 0.56 * len(rows)
    bottoms = [height - 0.95 - 0.56 * k for k in range(len(rows))]
    figure, axes = canvas(title, height)
    side, width, inset = 0.1, 7.0 if several else 3.5, 0.18 if several else 0.45
    for index, left, span in _devices(axes, devices, side, side, width, height - 2 * side):
        middle = left + span / 2
        for k, ((what, text, code), bottom) in enumerate(zip(rows, bottoms, strict=True)):
            if k:
                look = (COLOURS["travels"], 2.4) if "travels" in (what, rows[k - 1][0]) else ()
                arrow(axes, (middle, bottoms[k - 1]), (middle, bottom + 0.36), *look)
            if what != "travels":
                words = text.format(sizes[index])
                short = words.split(": ")[-1]
                words = numbers[short][index] if short in numbers else short if len(devices) > 2 else words
                box(axes, left + inset, bottom, span - 2 * inset, 0.36, colour(what), words)
            if not several:
                axes.text(3.9, bottom + 0.18, code, va="center", family="monospace", color=MUTED)
    if several:
        text = f"all-reduce: {gradient_bytes / 2**20:.1f} MiB of gradients from each device, combined, back to each"
        bar = side + inset, bottoms[3], width - 2 * inset, 0.36
        box(axes, *bar, COLOURS["travels"], text, color="white", weight="bold")
    else:  # the weights of this step are those of the next step's forward pass
        first, last = bottoms[1] + 0.18, bottoms[-1] + 0.18
        axes.plot([0.55, 0.33, 0.33], [last, last, first], color=INK, lw=1.4)
        arrow(axes, (0.33, first), (0.55, first))
    return figure


@styled()
def ring(story, title, note=""):
    """The steps of a ring all-reduce on two to four devices: a line of chunks for each, arrows for what travels.

    story: `[(name, values, chosen), …]`: values[d][c] is chunk c on device d, which began as (c + 1)·10**d, so that
    its digits other than 0 count the contributions in it; chosen[d] is the chunk that device d sends to the next
    one, or chosen is None. After the first half of the panels comes an empty place, for the key and the note.
    """
    count = len(story[0][1])
    if not 2 <= count <= 4:
        raise ValueError(f"story: {count} devices; numbers stay readable on two to four")
    panels = [*story[: len(story) // 2], None, *story[len(story) // 2 :]]
    across = (len(panels) + 1) // 2
    width, line, tall = 7.2 / across, 0.5, 0.5 * max(count, 3) + 0.75
    figure, axes = canvas(title, 2 * tall)
    chunk = (width - 0.24) / count
    shades = [(COLOURS["gradients"], 0.12 + 0.88 * n / (count - 1)) for n in range(count)]  # of sums of n + 1
    for i, panel in enumerate(panels):
        left, top = (i % across) * width + 0.06, 2 * tall - (i // across) * tall
        if panel is None:
            for n in range(1, count + 1):
                y = top - 0.2 - 0.36 * n
                box(axes, left + 0.1, y, 0.3, 0.26, shades[n - 1])
                axes.text(left + 0.5, y + 0.13, f"sum of {n}" if n > 1 else "of one device", va="center", size=9)
            axes.text(left + 0.1, y - 0.14, note, va="top", size=9, color=COLOURS["travels"], weight="bold")
            continue
        name, values, chosen = panel
        axes.text(left + 0.03, top - 0.12, name, va="center", size=10, weight="bold")
        for d, row in enumerate(values):
            low = top - 0.42 - line * (d + 1) + 0.16
            box(axes, left, low - 0.03, width - 0.12, 0.36)
            for c, value in enumerate(row):
                fill = shades[sum(digit != "0" for digit in str(value)) - 1]
                box(axes, left + 0.075 + c * chunk, low + 0.02, chunk - 0.03, 0.26, fill, str(value), size=8.3)
        for d, chunk_sent in enumerate(chosen or ()):
            x, low = left + 0.06 + (chunk_sent + 0.5) * chunk, top - 0.25 - line * (d + 1)
            arrow(axes, (x, low), (x, low - 0.21), COLOURS["travels"], 2)
            if d == count - 1:  # round the ring: out at the bottom, in at the top
                arrow(axes, (x, top - 0.26), (x, top - 0.46), COLOURS["travels"], 2)
    return figure


@styled()
def split_layer(title):
    """A matrix split by columns and by rows over two devices: which part is where, and what travels afterwards."""
    figure, axes = canvas(title, 3.9)
    by_columns = [("x", f"W, {half} half", f"y, {half} half") for half in ("left", "right")]
    by_rows = [(f"x, {x} half", f"W, {W} half", "part of y") for x, W in (("left", "top"), ("right", "bottom"))]
    cuts = ("by columns", "all-gather: side by side", by_columns), ("by rows", "all-reduce: added up", by_rows)
    for k, (name, exchange, devices) in enumerate(cuts):
        left = 0.05 + 3.6 * k
        label(axes, left + 1.75, 3.72, name, weight="bold", size=11)
        for index, x, span in _devices(axes, ["device 0", "device 1"], left, 0.95, 3.5, 2.55):
            for row, (text, what) in enumerate(zip(devices[index], ("inputs", "weights", "inputs"), strict=True)):
                box(axes, x + 0.16, 2.65 - 0.72 * row, span - 0.32, 0.45, COLOURS[what], text)
            for row, sign in enumerate("·="):
                label(axes, x + span / 2, 2.515 - 0.72 * row, sign, size=12)
            arrow(axes, (x + span / 2, 1.21), (x + span / 2, 0.6), COLOURS["travels"], 2.5)
        box(axes, left + 0.05, 0.15, 3.4, 0.42, COLOURS["travels"], exchange, color="white", weight="bold")
    return figure


@styled()
def decision(title):
    """Which kind of distribution a training needs, as five questions and five answers."""
    figure, axes = canvas(title, 4.3)
    wide, columns = 1.5, (0.03, 1.83, 3.63, 5.43)
    boxes = {
        "Does it fit on\none device?": (0, 3.5, "white"), "Is one device, well\nfed, too slow?": (0, 2.35, "white"),
        "With a share of\nthe batch only?": (1, 3.5, "white"), "With a share of\nthe states too?": (2, 3.5, "white"),
        "Does the largest\nlayer fit?": (3, 3.5, "white"), "one device\n(notebook 01)": (0, 0.1, "waiting"),
        "data parallel\n(02, 03, 04)": (1, 1.2, "inputs"), "sharded (ZeRO,\nFSDP)": (2, 1.2, "optimizer"),
        "layers split\nas a pipeline": (3, 2.35, "weights"), "layers split\nwithin (tensor)": (3, 1.2, "weights"),
    }  # fmt: skip
    ways = (0, 1, "yes"), (0, 2, "no"), (1, 5, "no"), (1, 6, "yes"), (2, 6, "yes"), (2, 3, "no"), (3, 7, "yes")
    ways += (3, 4, "no"), (4, 8, "yes")
    drawn = [
        box(axes, columns[column], y, wide, 0.62, COLOURS.get(what, what), text, size=9.5)
        for text, (column, y, what) in boxes.items()
    ]
    middles = [(columns[column] + wide / 2, y + 0.31) for column, y, _ in boxes.values()]
    for a, b, word in ways:
        arrow(axes, middles[a], middles[b], patchA=drawn[a], patchB=drawn[b])
        x, y = ((start + end) / 2 for start, end in zip(middles[a], middles[b], strict=True))
        label(axes, x, y + 0.17 * (y > 3.7), word, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.plot([6.93, 7.07, 7.07], [3.81, 3.81, 1.51], color=INK, lw=1.4)  # round the pipeline
    arrow(axes, (7.07, 1.51), (6.93, 1.51))
    label(axes, 6.9, 2.16, "no")
    remark = "Very large models use both: split over the devices\nof each machine, copied over many machines."
    axes.text(1.83, 0.72, remark, size=10, color=MUTED, va="top")
    return figure


@styled()
def workers(processes, title, travels, shared=""):
    """Processes side by side: `{name: [(text, what), …]}` is what each has of its own, what a key of COLOURS.

    travels: the text on the band across them all. shared: what all of them see besides, such as a folder, or "".
    """
    row, low, contents = 0.42, 0.62 if shared else 0.1, list(processes.values())
    height = low + 1.52 + row * max(map(len, contents))
    figure, axes = canvas(title, height)
    span = 7.2 / len(contents)
    for index, name in enumerate(processes):
        left = index * span + 0.1
        box(axes, left, low, span - 0.2, height - low - 0.1, dashed=True)
        label(axes, left + span / 2 - 0.1, height - 0.3, name, weight="bold")
        box(axes, left + 0.12, low + 0.72, span - 0.44, height - low - 1.3)
        for k, (text, what) in enumerate(contents[index]):
            box(axes, left + 0.24, height - 1.1 - row * k, span - 0.68, row - 0.08, colour(what), text)
        arrow(axes, (left + span / 2 - 0.1, low + 0.72), (left + span / 2 - 0.1, low + 0.48), COLOURS["travels"], 2.4)
        if shared:
            arrow(axes, (left + 0.5, low), (left + 0.5, 0.44), patchA=None)
    box(axes, 0.28, low + 0.12, 6.64, 0.36, COLOURS["travels"], travels, color="white", weight="bold")
    if shared:
        box(axes, 0.1, 0.06, 7.0, 0.38, COLOURS["waiting"], shared)
    return figure


@styled()
def shards(policies, total, title):
    """Who sees which of the examples 0 to total - 1, step by step: `{policy: [[[example, …], …] of each worker]}`.

    An example that is seen twice is drawn in the colour of what is wrong; those that nobody sees are named.
    """
    line, square, count = 0.3, 0.25, len(next(iter(policies.values())))
    tall = count * line + 0.42
    figure, axes = canvas(title, tall * len(policies) + 0.1)
    for k, (policy, seen) in enumerate(policies.items()):
        top = tall * (len(policies) - k)
        flat = [example for steps in seen for step in steps for example in step]
        twice = sum(flat.count(example) > 1 for example in range(total))
        missing = [str(example) for example in range(total) if example not in flat]
        notes = [f"{max(map(len, seen))} steps"] + [f"{twice} example{'s' * (twice > 1)} twice"] * bool(twice)
        notes += ["never: " + ", ".join(missing)] * bool(missing)
        axes.text(0.05, top - 0.14, policy, va="center", weight="bold", size=10)
        axes.text(7.15, top - 0.14, " · ".join(notes), va="center", ha="right", size=9, color=MUTED)
        for worker, steps in enumerate(seen):
            x, y = 1.0, top - 0.3 - line * (worker + 1) + 0.05
            axes.text(0.12, y + 0.12, f"worker {worker}", va="center", size=9, color=MUTED)
            for step in steps:
                for example in step:
                    fill = COLOURS["wrong" if flat.count(example) > 1 else "inputs"]
                    box(axes, x, y, square, square - 0.02, fill, str(example), size=8.3)
                    x += square + 0.03
                x += 0.12
    return figure


@styled()
def tpu(title, travels, inside):
    """A host and a TPU chip: what the host sends, and what is on the chip. inside: `{part: (text, what)}`, three parts.

    The last part is drawn as the grid that gives the matrix unit its name.
    """
    from matplotlib.patches import Rectangle

    figure, axes = canvas(title, 3.3)
    box(axes, 0.1, 0.3, 2.1, 2.4, dashed=True)
    label(axes, 1.15, 2.45, "host", weight="bold")
    for k, (text, what) in enumerate((("Python, TensorFlow", "waiting"), ("tf.data: batches", "inputs"))):
        box(axes, 0.22, 1.65 - 0.75 * k, 1.86, 0.5, colour(what), text)
    arrow(axes, (2.2, 1.15), (3.5, 1.15), COLOURS["travels"], 2.6)
    label(axes, 2.84, 1.42, travels, size=9, color=COLOURS["travels"], weight="bold")
    box(axes, 3.5, 0.1, 3.6, 2.8)
    label(axes, 5.3, 2.7, "TPU chip", weight="bold")
    for k, (name, (text, what)) in enumerate(inside.items()):
        bottom = (2.05, 1.4, 0.22)[k]
        box(axes, 3.62, bottom, 3.36, (0.44, 0.44, 1.02)[k], "white" if k == 2 else colour(what))
        axes.text(3.72, bottom + (0.22, 0.22, 0.8)[k], f"{name}: {text}", va="center", size=9.3)
    for row in range(4):
        for column in range(16):
            corner = 3.76 + 0.195 * column, 0.29 + 0.1 * row
            axes.add_patch(Rectangle(corner, 0.165, 0.075, facecolor=colour(what)))
    return figure
