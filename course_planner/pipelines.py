"""The plumbing of a pipeline that really computes: a thread for each stage, and boxes
in which messages wait.
"""

import collections
import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

LENGTH = {"forward": 1, "backward": 2}
"""Of a pass, on the schedule's clock: the backward pass computes two products where the
forward pass computes one.
"""


@dataclass
class PipelineRun:
    """What the stages did: `spans[stage]` is `[(start, length, direction, micro-batch),
    …]` by the schedule's clock; `gradients[stage]` the gradients of each micro-batch;
    `most[stage]` how many micro-batches it kept at once.
    """

    spans: list = field(default_factory=list)
    gradients: list = field(default_factory=list)
    most: list = field(default_factory=list)

    @property
    def end(self) -> float:
        """Return when the last pass ends."""
        return max(
            start + length for spans in self.spans for start, length, *_ in spans
        )

    @property
    def idle_fraction(self) -> float:
        """Return the share of all stages' time in which they wait."""
        return 1 - sum(length for spans in self.spans for _, length, *_ in spans) / (
            len(self.spans) * self.end
        )


def run_pipeline(
    orders: list, micro_batches: list, forward_pass, backward_pass, send
) -> PipelineRun:
    """Pass micro-batches through stages, each in a thread of its own, forward and back.

    No second is measured: each message carries its sender's clock, and a stage begins a
    pass when both it and the message are ready.

    Args:
        orders: for each stage, its passes in order, such as ["forward", "forward",
            "backward", "backward"].
        micro_batches: what arrives at stage 0.
        forward_pass: of (stage, number, arrived) → (what to keep, output).
        backward_pass: of (stage, kept, gradient of the output; None at the last) →
            (gradient of what arrived, gradients).
        send: of (value, stage) → the value there.

    Raises:
        queue.Empty: when a stage waits 30 seconds in vain. And what a pass raises.
    """
    stages = len(orders)
    boxes = {
        (direction, stage): queue.Queue()
        for direction in LENGTH
        for stage in range(stages)
    }
    run = PipelineRun([[] for _ in orders], [[] for _ in orders], [0] * stages)
    for number, arrived in enumerate(micro_batches):
        boxes["forward", 0].put((number, 0, arrived))

    def deliver(direction, stage, number, clock, value):
        if stage == stages:  # nobody to send to: the way back begins
            boxes["backward", stage - 1].put((number, clock, None))
        elif stage >= 0:
            boxes[direction, stage].put((number, clock, send(value, stage)))

    def work(stage):
        kept, clock = collections.deque(), 0
        for direction in orders[stage]:
            number, sent_at, value = boxes[direction, stage].get(timeout=30)
            start = max(clock, sent_at)
            clock = start + LENGTH[direction]
            run.spans[stage].append((start, LENGTH[direction], direction, str(number)))
            if direction == "forward":
                keep, output = forward_pass(stage, number, value)
                kept.append(keep)
                run.most[stage] = max(run.most[stage], len(kept))
                deliver(direction, stage + 1, number, clock, output)
            else:
                gradient, gradients = backward_pass(stage, kept.popleft(), value)
                run.gradients[stage].append(gradients)
                deliver(direction, stage - 1, number, clock, gradient)

    with ThreadPoolExecutor(stages) as threads:
        list(threads.map(work, range(stages)))
    return run
