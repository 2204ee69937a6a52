"""Arithmetic on paper: what each device holds and sends, how long a step takes, and which strategy to choose."""

# ruff: noqa: F401
from course_utils.planner import drawings
from course_utils.planner.advice import Recommendation, recommend
from course_utils.planner.costs import (
    ALGORITHMS,
    OPTIMIZER_SLOTS,
    STRATEGIES,
    ZERO,
    LayerCost,
    Memory,
    StepTime,
    all_reduce_bytes,
    amdahl,
    checkpointed,
    gustafson,
    layer_costs,
    memory,
    pipeline_idle_share,
    step_time,
    wire_bytes,
)
from course_utils.planner.sliders import Sliders
