"""What a cluster needs besides processes: TF_CONFIG, built and diagnosed."""

import json
import socket

import pytest

from course_launcher import build_tf_config, check_tf_config, tf_config

TWO = ["localhost:20111", "localhost:20112"]


def test_build():
    assert json.loads(build_tf_config(TWO, 1)) == {
        "cluster": {"worker": TWO},
        "task": {"type": "worker", "index": 1},
    }
    assert (
        json.loads(build_tf_config(("node-1.example:2222", "[fe80::1]:2222"), 0))[
            "task"
        ]["index"]
        == 0
    )


@pytest.mark.parametrize(
    "workers, index, words",
    [
        ([], 0, r"workers=\[\]: must be a list of addresses"),
        ("localhost:1", 0, "workers='localhost:1': must be a list"),
        (["localhost"], 0, "'localhost' is no address; it must be 'host:port'"),
        (["localhost:0"], 0, "no address"),
        (["localhost:65536"], 0, "no address"),
        (["grpc://a:1"], 0, "no address"),
        ([7], 0, "workers: 7 is no address"),
        (
            TWO,
            2,
            r"index=2: must be a whole number from 0 to 1 \(the last of the workers\)",
        ),
        (TWO, "0", "index='0': must be a whole number"),
    ],
)
def test_build_refuses(workers, index, words):
    with pytest.raises(ValueError, match=words):
        build_tf_config(workers, index)


def changed(**parts):
    return json.dumps(json.loads(build_tf_config(TWO, 0)) | parts)


def test_nothing_to_find(monkeypatch):
    monkeypatch.setattr(tf_config, "_free", lambda port: True)
    assert check_tf_config(build_tf_config(TWO, 0)) == []
    cluster = {
        "chief": ["10.1.1.2:2001"],
        "worker": ["[fe80::1]:2002"],
        "ps": ["192.168.7.1:2001", "10.1.1.1:2001"],
    }
    assert (
        check_tf_config(
            json.dumps({"cluster": cluster, "task": {"type": "ps", "index": 1}})
        )
        == []
    )


@pytest.mark.parametrize(
    "cluster, task",
    [
        ({"worker": ["10.1.1.1:1", "10.1.1.2:1"]}, {"type": "worker", "index": "0"}),
        ({"worker": {"1": "10.1.1.1:1"}}, {"type": "worker", "index": 1}),
        (
            {"chief": ["10.1.1.1:1"], "worker": ["10.1.1.2:1"]},
            {"type": "evaluator", "index": 0},
        ),
    ],
)
def test_what_tensorflow_accepts_is_no_finding(monkeypatch, cluster, task):
    import tensorflow as tf

    text = json.dumps({"cluster": cluster, "task": task})
    monkeypatch.setattr(tf_config, "_free", lambda port: True)
    monkeypatch.setenv("TF_CONFIG", text)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert resolver.task_id == int(
        task["index"]
    ) and resolver.cluster_spec().jobs == sorted(cluster)
    assert check_tf_config(text) == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("{'cluster': 1}", "it is not JSON (line 1, column 2)"),
        (None, "it is not JSON: write it with json.dumps"),
        ("[1]", "'cluster' is missing"),
        ('"text"', "'task' is missing"),
        (changed(cluster=None), "'cluster' is missing: it must map each role"),
        (changed(cluster={}), "'cluster' is missing"),
        (changed(task=None), "'task' is missing: it must say which process"),
        (changed(task={"type": "worker"}), "task['index'] is missing"),
        (changed(task={"index": 0}), "task['type'] is missing"),
        (
            changed(task={"type": "chief", "index": 0}),
            "the task's type is 'chief', and 'cluster' has no such role: worker",
        ),
        (
            changed(task={"type": "worker", "index": 2}),
            "the task's index is 2, and must be a whole number from 0 to 1",
        ),
        (
            changed(task={"type": "worker", "index": "zero"}),
            "the task's index is 'zero'",
        ),
        (
            changed(cluster={"worker": {"1": "10.1.1.1:1"}}),
            "the task's index is 0, and must be 1",
        ),
        (
            changed(cluster={"worker": {"one": "10.1.1.1:1"}}),
            "cluster['worker'] must be a list of addresses",
        ),
        (
            changed(cluster={"master": TWO}),
            "worker, ps, evaluator (an old name of 'chief')",
        ),
        (
            changed(cluster={"worker": ["localhost:1", "10.1.1.1:1"]}),
            (
                "worker 0's host 'localhost' is on each machine that machine itself: "
                "where there are several, write"
            ),
        ),
        (changed(task={"type": "worker", "index": True}), "the task's index is True"),
        (
            changed(task={"type": ["worker"], "index": 0}),
            "the task's type is ['worker']",
        ),
        (
            changed(cluster={"workers": TWO}),
            "'cluster' knows no role 'workers': chief, worker, ps, evaluator",
        ),
        (
            changed(cluster={"worker": TWO[0]}),
            "cluster['worker'] must be a list of addresses",
        ),
        (
            changed(cluster={"worker": []}),
            "cluster['worker'] must be a list of addresses",
        ),
        (
            changed(cluster={"worker": ["localhost"]}),
            "worker 0's address 'localhost' is not 'host:port'",
        ),
        (changed(cluster={"worker": [5]}), "worker 0's address 5 is not 'host:port'"),
        (
            changed(cluster={"worker": TWO[:1] * 2}),
            "worker 0 and worker 1 have the same address, localhost:20111",
        ),
        (
            changed(cluster={"worker": ["localhost:20111", "127.0.0.1:20111"]}),
            "worker 0 and worker 1 are on one machine with one port, 20111",
        ),
        (
            changed(cluster={"worker": ["10.1.1.1:1", "10.1.1.1:1"]}),
            "have the same address",
        ),
        (
            changed(cluster={"worker": ["no-such-host.invalid:1"]}),
            "worker 0's host 'no-such-host.invalid' is not found",
        ),
        (
            changed(cluster={"worker": ["8.8.8.8:2222"]}),
            "worker 0's host '8.8.8.8' is a public address",
        ),
        (
            changed(cluster={"worker": ["[2001:4860:4860::8888]:1"]}),
            "is a public address",
        ),
    ],
)
def test_findings(text, words):
    found = check_tf_config(text)
    assert any(words in each for each in found), found
    assert all(isinstance(each, str) for each in found)


def test_a_port_that_is_taken():
    for host in "127.0.0.1", "":
        with socket.create_server((host, 0)) as server:
            port = server.getsockname()[1]
            text = build_tf_config([f"localhost:{port}", "localhost:1"], 0)
            assert check_tf_config(text) == [
                (
                    f"port {port} of this machine is taken: "
                    "end the program that has it, or choose another port"
                )
            ]
            other = build_tf_config(
                [f"localhost:{port}", f"localhost:{free_port()}"], 1
            )
            assert check_tf_config(other) == [], (
                "another worker's port may be in use: it has started already"
            )
        assert check_tf_config(text) == []


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def test_a_look_up_that_takes_too_long(monkeypatch):
    import threading

    release = threading.Event()
    monkeypatch.setattr(tf_config, "LOOK_UP", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: release.wait(10) and [])
    found = check_tf_config(changed(cluster={"worker": ["slow.example:1"]}))
    release.set()
    assert found[0].startswith("worker 0's host 'slow.example' is not found")
