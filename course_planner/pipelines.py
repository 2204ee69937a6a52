"""What the stages of a pipeline did: recorded by notebook 05, and drawn there."""

from dataclasses import dataclass, field


@dataclass
class PipelineRun:
    """A record of what the stages of a pipeline did, by the schedule's own clock.

    Attributes:
        stages: how many there are.
        clock: for each stage, when its last pass has ended.
        spans: for each stage `[(start, length, direction, micro-batch), …]`.
        gradients: for each stage those of each micro-batch.
        peak_in_flight: for each stage how many micro-batches it kept at once.
    """

    stages: int
    clock: list[float] = field(init=False)
    spans: list[list] = field(init=False)
    gradients: list[list] = field(init=False)
    peak_in_flight: list[int] = field(init=False)

    def __post_init__(self):
        self.clock = [0] * self.stages
        self.spans = [[] for _ in range(self.stages)]
        self.gradients = [[] for _ in range(self.stages)]
        self.peak_in_flight = [0] * self.stages

    @property
    def end(self) -> float:
        """Return when the last pass ends."""
        return max(self.clock)

    @property
    def idle_fraction(self) -> float:
        """Return the share of all stages' time in which they wait."""
        busy = sum(length for spans in self.spans for _, length, *_ in spans)
        return 1 - busy / (self.stages * self.end)
