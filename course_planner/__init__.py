"""Arithmetic on paper: what each device holds and sends, how long a step takes, and
which class to train with.
"""

# ruff: noqa: F401
from course_planner import animations, drawings
from course_planner.advice import MACHINES, Machine, Recommendation, recommend
from course_planner.compiled import (
    EXCHANGES,
    Collective,
    collectives,
    read_collectives,
)
from course_planner.formulas import ALGORITHMS, all_reduce_bytes, bubble_fraction
from course_planner.layers import (
    LayerCost,
    checkpointed,
    held_bytes,
    held_over_step,
    layer_costs,
    measured_activations,
)
from course_planner.parallelism import (
    PARALLELISMS,
    ZERO,
    communication_volume,
    composition,
    memory,
    plan,
    step_time,
)
from course_planner.pipelines import PipelineRun
from course_planner.plans import (
    OPTIMIZER_SLOTS,
    PRECISIONS,
    Memory,
    Plan,
    Rates,
    StepTime,
)
from course_planner.transformers import transformer
