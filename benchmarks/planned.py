"""What the planner says of the trainings that were measured on GPUs (docs/gpu.md).

usage: python -m benchmarks.planned      prints the tables of course_planner/README.md
"""

import dataclasses
import json
import pathlib
from typing import Any

import course_planner as planner
from course_utils.model import build_model

MEASURED = pathlib.Path(__file__).with_name("measured.json")
ONE_H100 = dataclasses.replace(planner.MACHINES["8 x H100"], devices_per_host=1)
# NVIDIA H200 SXM datasheet, 2023: the H100's peaks; 141 GB, 4.8 TB/s.
ONE_H200 = dataclasses.replace(ONE_H100, memory=141e9, memory_bandwidth=4800e9)
CARDS = {"H100": ONE_H100, "H200": ONE_H200}


def costs_of_models() -> dict[str, list[planner.LayerCost]]:
    """Return the layers of the two models that were measured, by name."""
    import keras

    resnet = keras.applications.ResNet50(weights=None)  # pyright: ignore
    return {
        "the course's model": planner.layer_costs(build_model(seed=0)),
        "ResNet50": planner.layer_costs(resnet),
    }


def speeds(costs) -> list[tuple[str, str, str, int, float, float]]:
    """Return (card, model, precision, batch, planned, measured) in examples/s."""
    rows = []
    for card, name, precision, batch, measured in stored_rows("speed"):
        plan = planner.Plan(costs[name], batch, precision=precision)
        step = plan.step_time(CARDS[card].rates(plan))
        rows.append((card, name, precision, batch, batch / step.total, measured))
    return rows


def peaks(costs) -> list[tuple[str, str, str, int, float, float]]:
    """Return (card, model, precision, batch, planned, measured) in GB (10**9 bytes)."""
    rows = []
    for card, name, precision, batch, measured in stored_rows("peak"):
        plan = planner.Plan(costs[name], batch, precision=precision)
        rows.append(
            (card, name, precision, batch, plan.memory()[0].total / 1e9, measured)
        )
    return rows


def stored_rows(kind) -> list[tuple[str, str, str, int, Any]]:
    """Return (card, model, precision, batch, measured); kind: "speed" or "peak"."""
    stored = json.loads(MEASURED.read_text(encoding="utf-8"))[kind]
    return [
        (card, name, precision, int(batch), measured)
        for card, name, precision, found in stored
        for batch, measured in found.items()
    ]


def page(costs) -> str:
    """Return both tables, in Markdown."""
    lines = []
    for words, rows, digits in (
        ("examples/s", speeds(costs), ",.0f"),
        ("peak, GB", peaks(costs), ".2f"),
    ):
        lines += [
            f"| {words}: card | model | precision | batch | planned | measured | "
            "planned / measured |",
            "|---" * 7 + "|",
        ]
        for card, name, precision, batch, planned, measured in rows:
            lines.append(
                f"| {card} | {name} | {precision} | {batch:,} | {planned:{digits}} | "
                f"{measured:{digits}} | {planned / measured:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(costs_of_models()))
