"""Formulas that need no model: bytes of an all-reduce, the bubble of a pipeline,
shares, the best cut.
"""

from course_utils.arguments import one_of, whole_number
from course_utils.language import counted, translated as _

ALGORITHMS = ("gather", "ring", "tree")


def all_reduce_bytes(
    elements: int, devices: int, algorithm: str = "ring", bytes_per_value: int = 4
) -> list[int]:
    """Return the bytes that each device sends to all-reduce `elements` values: a list
    of `devices` exact integers.

    With S = elements x bytes_per_value and N = devices:

    - gather: each device sends S to device 0, which sends the sum, S, to each of the N
        - 1 others.
    - ring: reduce-scatter then all-gather, N - 1 messages each: 2 (N - 1) / N x S
      (Patarasuk & Yuan, 2009). Chunks are cut as numpy.array_split does. Device d sends
      to d + 1: chunk d first, then each chunk it has just received; so all chunks but d
      + 1, then all but d + 2 (modulo N).
    - tree: two trees, each for half of S, in which every device is a leaf of one and
      inside the other (Sanders, Speck & Träff, 2009; NCCL): up and down again, 2 S from
      each device (less from the two roots, which is left out).

    Raises ValueError unless elements is a whole number from 0 up, devices and
    bytes_per_value from 1 up.
    """
    elements, devices = (
        whole_number("elements", elements),
        whole_number("devices", devices, 1),
    )
    size = elements * whole_number("bytes_per_value", bytes_per_value, 1)
    if one_of("algorithm", algorithm, ALGORITHMS) == "ring" and devices > 1:
        chunks = [share(elements, devices, d) * bytes_per_value for d in range(devices)]
        return [
            2 * size - chunks[(d + 1) % devices] - chunks[(d + 2) % devices]
            for d in range(devices)
        ]
    if algorithm == "tree":
        return [2 * size * (devices > 1)] * devices
    return [(devices - 1) * size] + [size * (devices > 1)] * (devices - 1)


def bubble_fraction(stages: int, micro_batches: int) -> float:
    """Return the share of its time, from 0 to 1, that each of p equal stages waits: (p
    - 1) / (m + p - 1) (Huang et al., GPipe, 2019). Raises ValueError unless both are
    whole numbers from 1 up.
    """
    stages, micro_batches = (
        whole_number("stages", stages, 1),
        whole_number("micro_batches", micro_batches, 1),
    )
    return (stages - 1) / (micro_batches + stages - 1)


def mib(size: float) -> str:
    """Return a size in bytes as text: in MiB (2**20 bytes), in bytes where MiB would
    read 0.00, in GiB from 10 GiB on.
    """
    if size < 2**20 / 100:
        return counted(size, "byte", "bytes")
    if size >= 10 * 2**30:
        return _("{size:,.1f} GiB", size=size / 2**30)
    number = f"{size / 2**20:,.2f}"
    if size >= 1000 * 2**20:
        number = f"{size / 2**20:,.0f}"
    return _("{number} MiB", number=number)


def share(elements, parts, index):
    """Return the length of part `index` when `elements` values are cut into `parts` as
    numpy.array_split does.
    """
    return elements // parts + (index < elements % parts)


def balanced(sizes, devices):
    """Return the edges of `devices` runs of sizes whose largest sum is least."""

    # one device after the other, leaving at least one layer for each that follows
    def fill(capacity):
        edges, held = [0], 0
        for index, size in enumerate(sizes):
            if index and (
                held + size > capacity or len(sizes) - index == devices - len(edges)
            ):
                edges.append(index)
                held = 0
            held += size
        return [*edges, len(sizes)]

    # halved by hand: bisect takes no range this long where Python has 32 bits, as in a
    # browser
    too_little, enough = max(sizes) - 1, sum(sizes)
    while enough - too_little > 1:
        middle = (too_little + enough) // 2
        if len(fill(middle)) <= devices + 1:
            enough = middle
        else:
            too_little = middle
    return fill(enough)
