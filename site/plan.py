"""What the website's page «Plan a training» asks course_planner. It runs in the
reader's browser, and in the page's test.
"""

import dataclasses
import gzip
import json
import pathlib

import course_planner as planner
from course_utils.arguments import finite_number, one_of, whole_number

HERE = pathlib.Path(__file__).resolve().parent
MODELS = json.loads(gzip.decompress((HERE / "models.json.gz").read_bytes()))
GIB = 2**30


def layers_of(choices: dict) -> list[planner.LayerCost]:
    """Return the layers of the chosen model: one of Keras', a GPT, or alike ones."""
    model = one_of("model", choices["model"], [*MODELS, "GPT", "my own numbers"])
    if model == "GPT":  # as GPT-3's: 128 times as wide as it has blocks
        weights = 1e9 * finite_number("billion weights", choices["weights"], 0.01)
        blocks = max(2, round((weights / (12 * 128**2)) ** (1 / 3)))
        return planner.transformer(blocks, 128 * blocks, recomputed=True)
    if model == "my own numbers":
        count = whole_number("layers", choices["layers"], 1)
        million = [
            round(1e6 * finite_number(f"million {name} of a layer", choices[name]))
            for name in ("parameters", "outputs", "flops")
        ]
        return [planner.LayerCost(f"layer {k}", *million) for k in range(count)]
    return [
        planner.LayerCost(*(tuple(v) if isinstance(v, list) else v for v in row))
        for row in MODELS[model]
    ]


def machine_of(choices: dict) -> planner.Machine:
    """Return the chosen machine, as many times as there are hosts."""
    known = [*planner.MACHINES, "my own machine"]
    name = one_of("machine", choices["machine"], known)
    hosts = whole_number("machines", choices["hosts"], 1)
    price = choices.get("price") or None
    if name in planner.MACHINES:
        machine = planner.MACHINES[name]
        return dataclasses.replace(machine, hosts=hosts, price_per_hour=price)
    return planner.Machine(
        hosts,
        whole_number("devices", choices["devices"], 1),
        GIB * finite_number("GiB on a device", choices["memory"], 0.1),
        1e12 * finite_number("TFLOP/s", choices["tflops"], 0.001),
        1e9 * finite_number("GB/s inside", choices["inside"], 0.001),
        1e9 * finite_number("GB/s between", choices["between"], 0.001),
        price_per_hour=price,
    )


def answer(choices: dict) -> dict:
    """Return what the page shows: the planner's advice, and GiB on the fullest device
    for each kind of parallelism.

    Raises:
        ValueError: for a choice that makes no sense, with its name.
    """
    layers, machine = layers_of(choices), machine_of(choices)
    batch = whole_number("batch", choices["batch"], 1)
    examples = choices.get("examples") or None
    dividing = next(n for n in range(machine.devices, 0, -1) if batch % n == 0)
    counts = {kind: dividing for kind in ("data parallel", *planner.ZERO)}
    counts["one device"] = 1
    bars = {}
    for kind in planner.PARALLELISMS:
        devices = counts.get(kind, machine.devices)
        name = kind if devices == 1 else f"{kind} on {devices:,}"
        try:
            planned = planner.plan(layers, kind, devices, batch)
            bars[name] = planned.largest_memory().gib
        except ValueError as error:  # such as more stages than layers
            bars[name] = f"not possible: {error}"
    advice = planner.recommend(layers, machine, batch, examples=examples)
    return {
        "advice": str(advice),
        "weights": sum(layer.parameters + layer.frozen for layer in layers),
        "bars": bars,
        "room": 0.9 * machine.memory / GIB,
    }
