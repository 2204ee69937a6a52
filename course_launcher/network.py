"""A network in a box: links of chosen latency and bandwidth between workers.

Between each two workers stands a proxy, which passes bytes on late and slowly. It is a
process of its own, without rights that a learner lacks. A worker's TF_CONFIG has its
own address as it is, and for each other worker the proxy's address.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import os
import pathlib
import selectors
import socket
import time
from typing import Any

from course_utils.arguments import finite_number
from course_utils.language import translated as _

BLOCK = 2**16
"""Bytes that are read at once. Connections of one pair take turns in such blocks."""
AHEAD = 0.5
"""Seconds of sending that a link stores before it stops reading."""
MOST_UNDER_WAY = 1024
"""Blocks of a connection that a link stores: as a receiver's socket does that nobody
reads, it takes no more when it is full."""
MOST_CONNECTIONS = 450
"""Of a run; each takes two sockets, and select() knows 1,024. TensorFlow makes a few
between two workers."""
LONGEST = 60_000
"""Milliseconds: with more, no worker meets another in time."""
LOOK = 0.05
"""Seconds between two looks whether the network has fallen silent, or its run has
ended."""
LAST_MOMENTS = 2
"""Seconds in which a killed process should be gone."""
SLOWEST = 0.001
"""Megabytes a second: below a kilobyte a second no worker meets another in time."""
SILENCE = "COURSE_NETWORK_SILENCE"
"""The environment variable with the file that `silence_network` makes."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A link between each two workers of a run.

    A message of so many bytes takes `latency + bytes / bandwidth`, one way. What two
    workers send to each other at the same time does not slow the other way down; all
    connections between them share one way's bandwidth. To open a connection takes no
    time. One process passes everything on, some 200 megabytes a second in all: links
    of a run that together carry more are slower than they say.

    Attributes:
        latency_ms: milliseconds that every byte is under way.
        megabytes_per_second: 10^6 bytes a second, in each direction of each pair; a
            network of 1 Gbit/s has 125.
    """

    latency_ms: float = 0.0
    megabytes_per_second: float = math.inf

    def __post_init__(self):
        finite_number("latency_ms", self.latency_ms, 0, LONGEST)
        if self.megabytes_per_second != math.inf:
            finite_number("megabytes_per_second", self.megabytes_per_second, SLOWEST)

    def seconds(self, number_of_bytes: float) -> float:
        """Return how long a message is under way: latency + bytes / bandwidth."""
        bytes_per_second = self.megabytes_per_second * 1e6
        return self.latency_ms / 1000 + number_of_bytes / bytes_per_second


def silence_network() -> None:
    """Let nothing more through any link of this worker's run: a partition.

    Connections stay open, as when a cable is pulled or a switch is dead: nobody is told
    that nothing will come. It takes hold within a tenth of a second.

    Raises:
        RuntimeError: where this process is no worker with a `network`.
    """
    if SILENCE not in os.environ:
        raise RuntimeError(
            _(
                "silence_network: this process is no worker with a network of "
                "its own; call it in a function that run_on_workers(…, "
                "network=Network(…)) runs"
            )
        )
    pathlib.Path(os.environ[SILENCE]).touch()


class Links:
    """The links of one run, in a process that ends with it."""

    def __init__(self, network: Network, addresses: list[str], folder: str):
        """Listen for each worker on the way to each other one.

        Args:
            network: how long a message is under way.
            addresses: where the workers listen, "host:port".
            folder: for a file, whose existence silences the network.

        Raises:
            OSError: where the system refuses a socket.
        """
        self.network, self.addresses = network, addresses
        self.silence = os.path.join(folder, "silence")
        self.process: Any = None
        self.listeners: dict[tuple[int, int], socket.socket] = {}
        self.ports: dict[tuple[int, int], int] = {}
        with contextlib.ExitStack() as stack:
            for pair in itertools.permutations(range(len(addresses)), 2):
                listener = socket.create_server(("127.0.0.1", 0))
                stack.callback(listener.close)
                self.listeners[pair] = listener
                self.ports[pair] = listener.getsockname()[1]
            self._listening = stack.pop_all()

    def addresses_for(self, index: int) -> list[str]:
        """Return all workers' addresses as one of them must know them: its own as it
        is, and for each other one the link that leads there.
        """
        addresses = list(self.addresses)
        for (sender, receiver), port in self.ports.items():
            if sender == index:
                addresses[receiver] = f"localhost:{port}"
        return addresses

    def start(self, method: str, inherited: int | None) -> None:
        """Start the process that passes on what comes.

        Args:
            method: how multiprocessing starts it, "fork" or "spawn".
            inherited: the run's connection to the notebook, which a fork has as well.

        Raises:
            OSError: where the system refuses a process.
        """
        context: Any = multiprocessing.get_context(method)
        who = self.listeners, self.addresses
        arguments = (self.network, *who, self.silence, inherited)
        self.process = context.Process(target=serve, args=arguments)
        with self._listening:  # from now on only the new process does
            self.process.start()

    def have_ended(self) -> bool:
        """Return whether the process is no more, by its own fault."""
        return self.process.exitcode is not None

    def close(self) -> None:
        """End the process; nobody listens any more."""
        self._listening.close()
        if self.process:
            self.process.kill()
            self.process.join(LAST_MOMENTS)


def serve(
    network: Network,
    listeners: dict[tuple[int, int], socket.socket],
    addresses: list[str],
    silence: str,
    inherited: int | None,
) -> None:
    """Pass on what comes, as long as the process of the run is there."""
    if inherited is not None:
        os.close(inherited)
    run = multiprocessing.parent_process()
    assert run is not None
    # epoll, asyncio's own choice, rounds a wait up to whole milliseconds
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    asyncio.set_event_loop(loop)
    loop.run_until_complete(_serve(network, listeners, addresses, silence, run.pid))


async def _serve(network, listeners, addresses, silence, run):
    wires = {pair: Wire(network) for pair in listeners}
    for (sender, receiver), listener in listeners.items():
        port = int(addresses[receiver].rpartition(":")[2])
        there, back = wires[sender, receiver], wires[receiver, sender]
        await asyncio.start_server(_Accepted(port, there, back), sock=listener)
    while os.getppid() == run:
        if os.path.exists(silence):
            for wire in wires.values():
                wire.is_silent = True
        await asyncio.sleep(LOOK)


class _Accepted:
    """What becomes of a connection that a worker opens: one to another worker."""

    count = 0  # of those that are open, in this process

    def __init__(self, port, there, back):
        self.port, self.there, self.back = port, there, back

    async def __call__(self, reader, writer):
        # asyncio does so itself only for the other one, whose protocol it has looked up
        accepted = writer.get_extra_info("socket")
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if _Accepted.count >= MOST_CONNECTIONS:
            writer.close()
            return
        try:
            answers, onward = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:  # nobody listens there yet, or any more
            writer.close()
            return
        _Accepted.count += 1
        try:
            await asyncio.gather(
                self.there.carry(reader, onward), self.back.carry(answers, writer)
            )
        finally:
            _Accepted.count -= 1
            onward.close()
            writer.close()


class Wire:
    """One direction of the link between two workers.

    Attributes:
        free: when the wire has sent all that it has taken (time.monotonic).
        is_silent: whether nothing comes out of it any more.
    """

    def __init__(self, network: Network):
        self.network = network
        self.free = 0.0
        self.is_silent = False

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass on what one connection's sender writes, late and slowly, to its end."""
        under_way: asyncio.Queue = asyncio.Queue(MOST_UNDER_WAY)
        delivery = asyncio.create_task(self._deliver(under_way, writer))
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(BLOCK):
                await under_way.put((self._take(len(block)), block))
                await asyncio.sleep(max(0, self.free - time.monotonic() - AHEAD))
        await under_way.put((self._take(0), None))
        await delivery

    def _take(self, size):
        """Return when so many bytes arrive that are handed over now."""
        arrives = max(time.monotonic(), self.free) + self.network.seconds(size)
        self.free = arrives - self.network.seconds(0)
        return arrives

    async def _deliver(self, under_way, writer):
        with contextlib.suppress(OSError):
            while True:
                due, block = await under_way.get()
                await asyncio.sleep(max(0, due - time.monotonic()))
                while self.is_silent:
                    await asyncio.sleep(3600)
                if block is None:  # the sender has closed this direction
                    writer.write_eof()
                    return
                writer.write(block)
                await writer.drain()
        # The receiver is no more. Take in what still comes: nobody else would.
        while (await under_way.get())[1] is not None:
            pass
