"""The course's pictures in motion: the ring beside the star, a pipeline's two
schedules, asynchronous updates. Each is made of the numbers that the notebook has.
"""

from course_planner.pipelines import PipelineRun
from course_utils.language import translated as _
from course_utils.plots.motion import Motion, arrow, line, rectangle, text
from course_utils.plots.style import COLOURS, INK, MUTED, TRAVELS_INK

CHUNK_BYTES = 4  # a float32


def _shade(number: int) -> str:
    """Return the colour of a sum over some of four devices: its digits other than 0
    count who is in it.
    """
    contributions = sum(digit != "0" for digit in str(number))
    share = 0.12 + 0.88 * (contributions - 1) / 3
    full = COLOURS["gradients"]
    parts = [int(full[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)


class _Devices:
    """Boxes of devices with their chunks, bars of bytes sent, and flights between."""

    WIDTH, HEIGHT = 152, 30

    def __init__(self, motion: Motion, places: list, tick: float, most_bytes: int):
        self.motion, self.places, self.tick = motion, places, tick
        self.scale = self.WIDTH / most_bytes
        self.flights: list[tuple] = []
        for device, (left, top) in enumerate(places):
            frame = rectangle(left - 4, top - 4, self.WIDTH + 8, self.HEIGHT + 26)
            name = text(
                left,
                top + 41,
                _("device {device}", device=device),
                size=12,
                anchor="start",
            )
            motion.always(frame, name)

    def chunk(self, device: int, place: int, value: int, edge: str = INK) -> str:
        """Return the drawing of a chunk where it lies on its device."""
        left, top = self.places[device]
        wide = self.WIDTH / 4
        return rectangle(
            left + place * wide,
            top,
            wide - 2,
            self.HEIGHT - 4,
            _shade(value),
            str(value),
            edge=edge,
            size=12,
        )

    def fly(self, sender: int, receiver: int, place: int, value: int, tick: float):
        """Carry a chunk from one device to another in one tick, above all boxes."""
        (left, top), (to_left, to_top) = self.places[sender], self.places[receiver]
        start, end = (tick + 0.15) * self.tick, (tick + 0.95) * self.tick
        shape = self.chunk(sender, place, value, edge=COLOURS["travels"])
        flight = [(start, end)], shape, (to_left - left, to_top - top)
        self.flights.append(flight)

    def sent(self, device: int, history: list) -> None:
        """Draw the bytes that a device has sent: [(tick, bytes), …]."""
        left, top = self.places[device]
        lengths = [(self.tick * when, self.scale * sent) for when, sent in history]
        self.motion.bar(left, top + 30, 5, COLOURS["travels"], lengths)
        final = history[-1][1]
        words = _("{final} bytes in all", final=final)
        self.motion.always(
            text(left + 152, top + 41, words, size=12, anchor="end", fill=TRAVELS_INK)
        )
        width = self.scale * final
        colour = COLOURS["travels"]
        self.motion.still(
            rectangle(left, top + 30, width, 5, colour, edge=colour, thick=0)
        )


def ring_and_star(story: list, title: str, tick: float = 1.0) -> Motion:
    """Return the same all-reduce twice, in motion: all to the first device and back,
    beside the ring.

    A device sends one chunk and receives one chunk in a tick.

    story: of four devices, from `drawings.ring_story`.
    """
    count = len(story[0][1])
    if count != 4:
        raise ValueError(
            _("story: of {count} devices; the places are drawn for four", count=count)
        )
    ticks = 2 * count * (count - 1)  # of the star
    motion = Motion(title, 720, 358, tick * ticks + 3)
    motion.always(
        line((360, 50), (360, 350), COLOURS["waiting"], 1),
        text(178, 56, _("star: device 0 gathers, adds, sends back"), bold=True),
        text(544, 56, _("ring: each sends to the next"), bold=True),
    )
    most = CHUNK_BYTES * count * (count - 1)
    star_places = [(102, 178), (102, 84), (10, 276), (194, 276)]
    ring_places = [(374, 120), (558, 120), (558, 236), (374, 236)]
    _draw_star(_Devices(motion, star_places, tick, most), story[0][1])
    _draw_ring(_Devices(motion, ring_places, tick, most), story)
    return motion


def _beginnings(values: list) -> dict:
    """Return {(device, chunk): [(0, first value)]}, to which later ones are added."""
    return {
        (device, place): [(0.0, value)]
        for device, row in enumerate(values)
        for place, value in enumerate(row)
    }


def _draw_star(devices: _Devices, values: list) -> None:
    count, motion, tick = len(values), devices.motion, devices.tick
    half = count * (count - 1)
    sums, histories, now = list(values[0]), _beginnings(values), 0
    for sender in range(1, count):
        for place in range(count):
            devices.fly(sender, 0, place, values[sender][place], now)
            now += 1
            sums[place] += values[sender][place]
            histories[0, place].append((now, sums[place]))
    for receiver in range(1, count):
        for place in range(count):
            devices.fly(0, receiver, place, sums[place], now)
            now += 1
            histories[receiver, place].append((now, sums[place]))
    _draw_chunks(devices, histories)
    devices.sent(0, [(0, 0), (half, 0), (2 * half, CHUNK_BYTES * half)])
    for sender in range(1, count):
        start = count * (sender - 1)
        own = CHUNK_BYTES * count
        devices.sent(sender, [(0, 0), (start, 0), (start + count, own)])
    for device in range(1, count):
        _both_ways(devices, device)
    said = [(0, _("gather: device 0 has sent 0 bytes"))]
    for step in range(half + 1, 2 * half):
        sent = CHUNK_BYTES * (step - half)
        said.append((step, _("send back: device 0 has sent {sent} bytes", sent=sent)))
    said.append((2 * half, _("done after {ticks} ticks", ticks=2 * half)))
    motion.history([(tick * when, text(178, 345, words)) for when, words in said])
    motion.still(text(178, 345, _("{ticks} ticks of one chunk", ticks=2 * half)))


def _both_ways(devices, device):
    """Draw, where nothing moves, what goes to the centre and back."""
    (x, y), (to_x, to_y) = devices.places[device], devices.places[0]
    shift, up = devices.WIDTH / 2, y < to_y
    edges = (y + 54, to_y - 6) if up else (y - 6, to_y + 54)
    for aside, way in ((-8, 1), (8, -1)):
        ends = [
            (x + shift + aside, edges[0]),
            (to_x + shift + aside + 0.35 * (x - to_x), edges[1]),
        ]
        start, end = ends[::way]
        devices.motion.still(arrow(start, end, COLOURS["travels"]))


def _draw_ring(devices: _Devices, story: list) -> None:
    count, motion, tick = len(story[0][1]), devices.motion, devices.tick
    histories = _beginnings(story[0][1])
    for step, (_name, values, chosen) in enumerate(story):
        for (device, place), history in histories.items():
            if history[-1][1] != values[device][place]:
                history.append((step, values[device][place]))
        for device, place in enumerate(chosen or ()):
            after = (device + 1) % count
            devices.fly(device, after, place, values[device][place], step)
    _draw_chunks(devices, histories)
    steps = len(story) - 1
    for device in range(count):
        devices.sent(device, [(0, 0), (steps, CHUNK_BYTES * steps)])
    said = []
    for step in range(steps):
        half = "reduce-scatter" if step < count - 1 else "all-gather"
        sent = _("{sent} bytes sent by each", sent=CHUNK_BYTES * step)
        said.append(
            (
                step,
                _(
                    "{half}, step {step}: {sent}",
                    half=half,
                    step=step % (count - 1) + 1,
                    sent=sent,
                ),
            )
        )
    said.append((steps, _("done after {ticks} ticks", ticks=steps)))
    motion.history([(tick * when, text(544, 345, words)) for when, words in said])
    motion.still(text(544, 345, _("{ticks} ticks of one chunk", ticks=steps)))
    right, low = devices.places[0][0] + 159, devices.places[0][1] + 55
    for start, end in (
        ((right, 142), (devices.places[1][0] - 6, 142)),
        ((634, low), (634, devices.places[2][1] - 6)),
        ((devices.places[2][0] - 6, 258), (right, 258)),
        ((450, devices.places[3][1] - 6), (450, low)),
    ):
        motion.always(arrow(start, end, COLOURS["waiting"], 4))
        motion.still(arrow(start, end, COLOURS["travels"]))


def _draw_chunks(devices, histories):
    for (device, place), history in histories.items():
        drawn = [
            (devices.tick * when, devices.chunk(device, place, value))
            for when, value in history
        ]
        devices.motion.always(drawn[0][1])  # covered by what replaces it
        devices.motion.history(drawn[1:])
    for spans, shape, way in devices.flights:
        devices.motion.during(spans, shape, by=way)


def pipelines(
    runs: dict[str, PipelineRun], title: str, unit: str, tick: float = 0.5
) -> Motion:
    """Return schedules of a pipeline, one below the other on one axis, that are
    uncovered as time goes on, and at the right what each stage keeps meanwhile.

    runs: `{name: run}`, of the same number of stages and passes.
    """
    first = next(iter(runs.values()))
    stages, end = len(first.spans), max(run.end for run in runs.values())
    micro_batches = len(first.spans[0]) // 2
    row, left, right = 26, 78, 556
    scale = (right - left) / end
    tall = row * stages + 52
    motion = Motion(title, 720, 44 + tall * len(runs) + 26, tick * end + 3)
    motion.always(text(710, 20, _("kept at once"), bold=True, anchor="end"))
    cell = (706 - 576) / micro_batches
    for number, (name, run) in enumerate(runs.items()):
        top = 62 + tall * number
        share = f"{100 * run.idle_fraction:.0f} %"
        bubble = _(
            "{name}: each stage waits for {share} of the time", name=name, share=share
        )
        motion.always(text(10, top - 14, bubble, anchor="start", bold=True))
        for stage, spans in enumerate(run.spans):
            _draw_stage(
                motion, stage, spans, (left, top + row * stage, scale, row), end
            )
        # what lies behind the cursor is covered until it has passed
        height = row * stages
        curtain = rectangle(left, top - 3, 720, height + 2, edge="white", thick=0)
        cursor = line((left, top - 6), (left, top + height), TRAVELS_INK)
        motion.slide(curtain + cursor, tick * end, right - left + 2)
        for stage, spans in enumerate(run.spans):
            _draw_kept(motion, spans, tick, (580, top + row * stage, cell, row))
    low, below = motion.height - 14, 60 + tall * (len(runs) - 1) + row * stages
    for time in range(0, int(end) + 1, 8):
        tick_text = text(left + scale * time, below + 12, str(time), size=12)
        motion.always(tick_text)
    motion.always(text(left, low, unit, size=12, anchor="start"))
    motion.always(text(710, low, _("dashed: not needed"), size=12, anchor="end"))
    return motion


def _draw_stage(motion, stage, spans, place, end):
    left, y, scale, row = place
    motion.always(
        text(10, y + row / 2, _("stage {stage}", stage=stage), anchor="start")
    )
    grey = COLOURS["waiting"]
    motion.always(rectangle(left, y, scale * end, row - 4, grey, edge=grey))
    for start, length, way, number in spans:
        fill = COLOURS["compute" if way == "forward" else "gradients"]
        thick = 3 if number == "0" else 1
        motion.always(
            rectangle(
                left + scale * start,
                y,
                scale * length - 1,
                row - 4,
                fill,
                number,
                edge=INK if number == "0" else "white",
                thick=thick,
                size=12,
            )
        )


def _draw_kept(motion, spans, tick, place):
    """Draw a square for each micro-batch that a stage keeps, while it keeps it."""
    left, y, cell, row = place
    changes = sorted(
        (start + length, 1 if way == "forward" else -1)
        for start, length, way, _ in spans
    )
    held, since, spans_of = 0, {}, {}
    for when, change in changes:
        if change > 0:
            since[held] = when
        else:
            spans_of.setdefault(held - 1, []).append((since[held - 1], when))
        held += change
    for place in range(len(spans) // 2):
        where = left + cell * place, y + 3, cell - 3, row - 10
        used = [(start, end) for start, end in spans_of.get(place, ()) if start < end]
        if used:
            shape = rectangle(*where, COLOURS["activations"])
            motion.during([(tick * start, tick * end) for start, end in used], shape)
        else:
            shape = rectangle(*where, dashed=True, edge=MUTED)
            motion.during([(0, motion.seconds)], shape)
        motion.still(shape)


def asynchronous(
    pace: dict[str, int], until: int, title: str, tick: float = 0.08
) -> Motion:
    """Return devices that fetch weights, compute, and bring their gradient, each when
    it is ready, in motion; and how many updates of others came in between.

    Args:
        pace: `{device: milliseconds for a step}`, up to four.
        until: milliseconds that are shown.
        title: the finding.
        tick: seconds of the picture for a millisecond.
    """
    motion = Motion(title, 720, 60 + 62 * len(pace), tick * until + 3)
    updates, middle = updates_in_order(pace, until), 58 + 31 * len(pace)
    motion.always(
        rectangle(404, middle - 42, 132, 84),
        text(470, middle - 24, _("weights"), bold=True),
        rectangle(414, middle - 10, 112, 40, COLOURS["weights"]),
        text(560, 34, _("last gradient's age,"), size=12, anchor="start", bold=True),
        text(560, 49, _("in updates by others"), size=12, anchor="start", bold=True),
        text(10, 46, _("on paper"), size=12, anchor="start"),
    )
    versions = [(0, _("version {number}", number=0))]
    versions += [
        (when, _("version {number}", number=n))
        for n, (when, *_rest) in enumerate(updates, 1)
    ]
    latest = dict(versions)  # of several at one moment only the last can be seen
    drawn = [
        (tick * when, text(470, middle + 10, words)) for when, words in latest.items()
    ]
    motion.history(drawn)
    slowest = max(pace.values())
    still = next(
        k
        for k, (when, name, *_) in enumerate(updates)
        if when == slowest and pace[name] == slowest
    )
    motion.still(text(470, middle + 10, _("version {number}", number=still)))
    for place, (name, step) in enumerate(pace.items()):
        made = [update for update in updates if update[1] == name]
        before = sum(update[1] == name for update in updates[:still])
        place = 58 + 62 * place, middle + 10
        _draw_device(motion, (name, step), (made, before), place, tick)
    return motion


def updates_in_order(pace: dict[str, int], until: int) -> list[tuple]:
    """Return the updates that devices of these paces make: [(milliseconds, device,
    version read, age), …]; age counts the others' updates since the weights were read.

    Those that are ready at the same moment come in the order of `pace`.
    """
    ready = sorted(
        (when, place, name)
        for place, (name, step) in enumerate(pace.items())
        for when in range(step, until + 1, step)
    )
    read, made = dict.fromkeys(pace, 0), []
    for when, _place, name in ready:
        made.append((when, name, read[name], len(made) - read[name]))
        read[name] = len(made)
    return made


def _draw_device(motion, device, updates, place, tick):
    """Draw a device and its updates; the still shows it after the first `before`."""
    (name, step), (updates, before), (top, target) = device, updates, place
    motion.always(
        rectangle(10, top, 220, 48),
        text(20, top + 13, name, anchor="start", bold=True),
        text(20, top + 32, _("{step} ms a step", step=step), anchor="start", size=12),
    )
    # after its update a device has the weights that it has just made
    reads = [(0, 0)] + [(when, read + age + 1) for when, name, read, age in updates]
    holds = [
        (
            tick * when,
            _version(
                134, top + 6, COLOURS["weights"], _("has {number}", number=version)
            ),
        )
        for when, version in reads
    ]
    motion.always(holds[0][1])
    motion.history(holds[1:])
    motion.still(holds[before][1])
    flight = tick * 5  # of 5 ms
    ages = []
    for when, _name, read, age in updates:
        arrives, down = tick * when, target - top - 19
        busy = [(arrives - tick * step, 0), (arrives, 86), (arrives, 0)]
        motion.bar(134, top + 37, 5, COLOURS["compute"], [(0, 0), *busy])
        gradient = _version(
            240, top + 6, COLOURS["gradients"], _("of {number}", number=read)
        )
        motion.during([(arrives - flight, arrives)], gradient, by=(160, down))
        if when + step <= updates[-1][0]:
            fetched = _("version {number}", number=read + age + 1)
            fetched = _version(400, target - 13, COLOURS["weights"], fetched)
            motion.during([(arrives, arrives + flight)], fetched, by=(-160, -down))
        bar = rectangle(560, top + 12, max(2, 9 * age), 24, MUTED)
        ages.append(
            (arrives, bar + text(568 + 9 * age, top + 24, str(age), anchor="start"))
        )
    motion.history(ages)
    motion.still(ages[max(before, 1) - 1][1])  # the slow one's first has just arrived


def _version(left, top, fill, words):
    return rectangle(left, top, 86, 26, fill, words, size=12)
