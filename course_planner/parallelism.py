"""The kinds of parallelism by name, each a Plan of one kind on so many devices."""

from course_planner.layers import LayerCost
from course_planner.plans import Memory, Plan, Rates, StepTime
from course_utils.arguments import one_of, whole_number
from course_utils.language import marked

ZERO = ("ZeRO-1", "ZeRO-2", "ZeRO-3")
PARALLELISMS = (
    marked("one device"),
    marked("data parallel"),
    *ZERO,
    marked("pipeline parallel"),
    marked("tensor parallel"),
)


def composition(parallelism: str, devices: int) -> dict[str, int]:
    """Return what Plan takes for this kind alone: such as {"data": 4, "zero": 3}."""
    one_of("parallelism", parallelism, PARALLELISMS)
    if parallelism == "one device":
        return {}
    if parallelism in ZERO:
        return {"data": devices, "zero": 1 + ZERO.index(parallelism)}
    return {parallelism.split()[0]: devices}


def plan(
    layers: list[LayerCost],
    parallelism: str,
    devices: int,
    global_batch_size: int,
    **options,
) -> Plan:
    """Return the Plan of one kind of parallelism.

    "one device" puts all on device 0; the others hold nothing.

    Args:
        layers: a list of LayerCost.
        parallelism: one of PARALLELISMS; Plan says what each does.
        devices: how many.
        global_batch_size: examples a step, of all devices together.
        options: optimizer, precision, cuts, accumulation_steps, micro_batches: as in
            Plan.

    Raises:
        ValueError: as Plan.
    """
    whole_number("devices", devices, 1)
    ways = composition(parallelism, devices)
    return Plan(layers, global_batch_size, **ways, **options)


def memory(
    layers: list[LayerCost],
    parallelism: str,
    devices: int,
    global_batch_size: int,
    **options,
) -> list[Memory]:
    """Return the bytes that training needs on each device, a list (`Plan.memory`).

    Args and Raises: as in `plan`.
    """
    each = plan(layers, parallelism, devices, global_batch_size, **options).memory()
    return each + [Memory(0, 0, 0, 0)] * (devices - len(each))


def communication_volume(
    layers: list[LayerCost],
    parallelism: str,
    devices: int,
    global_batch_size: int,
    algorithm: str = "ring",
    **options,
) -> list[int]:
    """Return the bytes that each device sends in one training step, exact integers
    (`Plan.bytes_sent`).

    Args and Raises: as in `plan`; algorithm: one of ALGORITHMS, of ZeRO "ring".
    """
    one = plan(layers, parallelism, devices, global_batch_size, **options)
    sent = one.bytes_sent(algorithm)
    return sent + [0] * (devices - len(sent))


def step_time(  # noqa: PLR0913
    layers: list[LayerCost],
    parallelism: str,
    devices: int,
    global_batch_size: int,
    *,
    flops_per_second: float,
    bandwidth: float,
    latency: float,
    algorithm: str = "ring",
    **options,
) -> StepTime:
    """Return the seconds of one training step (`Plan.step_time`).

    Args: as in `plan`; flops_per_second: of one device, bandwidth: bytes/s that it
        sends, latency: seconds a message. algorithm: "ring" or "tree".

    Raises:
        ValueError: as `plan`, for rates below 1, and if no layer has FLOPs.
    """
    one = plan(layers, parallelism, devices, global_batch_size, **options)
    return one.step_time(Rates(flops_per_second, bandwidth, latency), algorithm)
