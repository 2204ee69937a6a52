"""The network in a box: slower links between worker processes.

Their latency and bandwidth are chosen.
"""

import json
import os
import signal
import socket
import sys
import threading
import time

import psutil
import pytest

import course_launcher as launcher
from course_launcher import Network
from course_launcher.network import Links

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="worker processes need Linux or macOS"
)


def test_how_long_a_message_is_under_way():
    assert Network().seconds(10**9) == 0
    assert Network(latency_ms=2, megabytes_per_second=12.5).seconds(
        25 * 10**6
    ) == pytest.approx(2.002)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"latency_ms": -1}, "latency_ms=-1: must be a finite number from 0 to"),
        ({"latency_ms": "2"}, "latency_ms='2': must be"),
        ({"latency_ms": 1e300}, "must be a finite number from 0 to 60000"),
        (
            {"megabytes_per_second": 0},
            "megabytes_per_second=0: must be a finite number, 0.001 or more",
        ),
    ],
)
def test_links_that_make_no_sense(arguments, words):
    with pytest.raises(ValueError, match=words):
        Network(**arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": 2}, "network=2: must be a Network, such as"),
        (
            {"network": Network(), "env": {"KERAS_BACKEND": "jax"}},
            "only for TensorFlow's workers. JAX's",
        ),
        ({"network": Network(), "workers": 9}, "network: for at most 8 workers"),
        (
            {"network": Network(), "coordinated": True},
            "network: not for coordinated runs",
        ),
    ],
)
def test_runs_that_have_none(options, words):
    with pytest.raises(ValueError, match=words):
        launcher.run_on_workers(os.getpid, **options)


class Echo:
    """Two workers with links between them; the second one sends back what comes."""

    def __init__(self, network, tmp_path):
        self.servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [server.getsockname()[1] for server in self.servers]
        self.links = Links(
            network, [f"localhost:{port}" for port in ports], str(tmp_path)
        )
        self.links.start("fork", None)
        threading.Thread(target=self.answer, daemon=True).start()

    def answer(self):
        while True:
            try:
                connection, _ = self.servers[1].accept()
            except OSError:
                return
            threading.Thread(target=self.echo, args=[connection], daemon=True).start()

    def echo(self, connection):
        with connection:
            while block := connection.recv(2**16):
                connection.sendall(block)

    def connect(self):
        (host, port) = self.links.addresses_for(0)[1].split(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def close(self):
        self.links.close()
        for server in self.servers:
            server.close()


@pytest.fixture
def echo(tmp_path):
    made = []

    def make(network):
        made.append(Echo(network, tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


def there_and_back(connection, size):
    begin = time.monotonic()
    threading.Thread(target=connection.sendall, args=[bytes(size)], daemon=True).start()
    while size:
        size -= len(connection.recv(2**20))
    return time.monotonic() - begin


def test_each_knows_its_own_address_and_a_link_to_the_other(echo):
    links = echo(Network()).links
    for index in range(2):
        addresses = links.addresses_for(index)
        assert addresses[index] == links.addresses[index]
        assert addresses[1 - index] != links.addresses[1 - index]


def test_every_byte_is_under_way_for_the_latency(echo):
    with echo(Network(latency_ms=50)).connect() as connection:
        assert min(there_and_back(connection, 1) for _ in range(3)) == pytest.approx(
            0.1, abs=0.05
        )
        assert (
            there_and_back(connection, 2**20) < 1
        )  # the bytes follow each other at once


def test_as_many_bytes_a_second_as_asked_for(echo):
    with echo(Network(megabytes_per_second=5)).connect() as connection:
        there_and_back(connection, 1)
        # they come back while others are still on their way there: each direction has
        # its own bandwidth
        assert min(
            there_and_back(connection, 10**6) for _ in range(2)
        ) == pytest.approx(0.2, abs=0.1)


def test_connections_of_a_pair_share_its_bandwidth(echo):
    made = echo(Network(megabytes_per_second=5))
    with made.connect() as one, made.connect() as two:
        there_and_back(one, 1)
        there_and_back(two, 1)
        begin = time.monotonic()
        other = threading.Thread(target=there_and_back, args=[two, 10**6])
        other.start()
        there_and_back(one, 10**6)
        other.join()
        assert 0.38 < time.monotonic() - begin < 1


def test_silence_closes_nothing(echo):
    made = echo(Network())
    with made.connect() as connection:
        there_and_back(connection, 1)
        with open(made.links.silence, "w"):
            time.sleep(0.3)
        connection.settimeout(0.5)
        connection.sendall(b"1")
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_nobody_listens_there(echo):
    made = echo(Network())
    made.servers[1].shutdown(socket.SHUT_RDWR)
    with made.connect() as connection:
        assert connection.recv(1) == b""


def test_fresh_interpreters_have_links_too():
    (first, _), (second, _) = launcher.run_on_workers(
        addresses_and_parent, network=Network(1), env={"PYTHONHASHSEED": "0"}
    )
    assert len({*first, *second}) == 4


def worker_index():
    return json.loads(os.environ["TF_CONFIG"])["task"]["index"]


def addresses_and_parent():
    return json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"], os.getppid()


def test_tf_config_leads_through_links_and_nothing_is_left():
    (first, run), (second, _), (third, _) = launcher.run_on_workers(
        addresses_and_parent, workers=3, network=Network(latency_ms=1)
    )
    assert len({*first, *second, *third}) == 3 + 6
    assert not psutil.pid_exists(run)
    for address in first + second + third:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(
                ("127.0.0.1", int(address.split(":")[1])), timeout=5
            )


def kill_the_links():
    if worker_index() == 0:
        siblings = psutil.Process(os.getppid()).children()
        (links,) = [
            each
            for each in siblings
            if any(one.status == "LISTEN" for one in each.net_connections())
        ]
        links.kill()
        time.sleep(0.5)


def test_silence_is_for_workers_with_a_network():
    with pytest.raises(RuntimeError, match="no worker with a network of its own"):
        launcher.silence_network()


def average(trouble, after):
    """Average in a loop, while worker 1 brings trouble.

    Each says what becomes of it, after how long.
    """
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    values = tf.ones(1000)
    step = tf.function(
        lambda: strategy.run(
            lambda: tf.distribute.get_replica_context().all_reduce(
                "SUM", tf.identity(values)
            )
        )
    )
    for number in range(10_000):
        begin = time.monotonic()
        if worker_index() == 1 and number == after:
            trouble()
        try:
            step()
        except tf.errors.OpError as error:
            return type(error).__name__, time.monotonic() - begin
    return None


@pytest.mark.slow  # 03 shows one
def test_a_partition_is_noticed_by_its_heartbeat():
    found = launcher.run_on_workers(
        average, launcher.silence_network, 5, network=Network(latency_ms=1)
    )
    for kind, seconds in found:
        assert (
            kind in ("UnavailableError", "DeadlineExceededError", "AbortedError")
            and 5 < seconds < 60
        )


def kill_parent(path):
    addresses = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
    (link,) = [address for k, address in enumerate(addresses) if k != worker_index()]
    with open(f"{path}/{worker_index()}", "w") as file:
        file.write(link)
    time.sleep(0.5)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(10)


def test_the_links_end_with_the_process_of_the_run(tmp_path):
    with pytest.raises(RuntimeError, match="the process of the run was killed"):
        launcher.run_on_workers(kill_parent, str(tmp_path), network=Network())
    until = time.monotonic() + 10
    for path in tmp_path.iterdir():
        while is_open(path.read_text()):
            assert time.monotonic() < until
            time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == 2


def is_open(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def silenced_inside():
    def silence():
        try:
            launcher.silence_network()
        except RuntimeError as error:
            return str(error)

    return launcher.run_in_process(silence)


@pytest.mark.slow
def test_a_run_inside_a_worker_has_no_network_of_its_own():
    for said in launcher.run_on_workers(silenced_inside, network=Network()):
        assert "no worker with a network of its own" in said


def test_an_answer_to_a_connection_that_is_half_closed(echo):
    with echo(Network(latency_ms=20)).connect() as connection:
        connection.sendall(b"question")
        connection.shutdown(socket.SHUT_WR)
        begin = time.monotonic()
        assert connection.recv(100) == b"question" and connection.recv(1) == b""
        assert time.monotonic() - begin > 0.03  # the end takes as long as every byte


def test_what_nobody_reads_is_not_taken_without_end(echo):
    made = echo(Network())
    made.echo = lambda connection: time.sleep(20)
    with made.connect() as connection:
        connection.settimeout(2)
        with pytest.raises(TimeoutError):
            for _ in range(400):
                connection.sendall(bytes(2**20))


def test_links_that_end_by_themselves_are_told_of():
    with pytest.raises(
        RuntimeError, match="the process of the network between the workers ended"
    ):
        launcher.run_on_workers(kill_the_links, network=Network())
