"""What a cluster needs besides processes: TF_CONFIG, built and diagnosed, and a script written from the cells."""

import json
import linecache
import socket
import subprocess
import sys
import textwrap

import pytest

from course_utils import cluster, data
from course_utils.cluster import build_tf_config, check_tf_config, tf_config, write_script

TWO = ["localhost:20111", "localhost:20112"]


def test_build():
    assert json.loads(build_tf_config(TWO, 1)) == {
        "cluster": {"worker": TWO},
        "task": {"type": "worker", "index": 1},
    }
    assert json.loads(build_tf_config(("node-1.example:2222", "[fe80::1]:2222"), 0))["task"]["index"] == 0


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
        (TWO, 2, r"index=2: must be a whole number from 0 to 1 \(the last of the workers\)"),
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
    cluster = {"chief": ["127.0.0.1:2001"], "worker": ["[::1]:2002"], "ps": ["192.168.7.1:2001", "10.1.1.1:2001"]}
    assert check_tf_config(json.dumps({"cluster": cluster, "task": {"type": "ps", "index": 1}})) == []


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
        (changed(task={"type": "worker", "index": 2}), "the task's index is 2, and must be a whole number from 0 to 1"),
        (changed(task={"type": "worker", "index": "0"}), "the task's index is '0'"),
        (changed(task={"type": "worker", "index": True}), "the task's index is True"),
        (changed(task={"type": ["worker"], "index": 0}), "the task's type is ['worker']"),
        (changed(cluster={"workers": TWO}), "'cluster' knows no role 'workers': chief, worker, ps, evaluator"),
        (changed(cluster={"worker": TWO[0]}), "cluster['worker'] must be a list of addresses"),
        (changed(cluster={"worker": []}), "cluster['worker'] must be a list of addresses"),
        (changed(cluster={"worker": ["localhost"]}), "worker 0's address 'localhost' is not 'host:port'"),
        (changed(cluster={"worker": [5]}), "worker 0's address 5 is not 'host:port'"),
        (changed(cluster={"worker": TWO[:1] * 2}), "worker 0 and worker 1 have the same address, localhost:20111"),
        (
            changed(cluster={"worker": ["localhost:20111", "127.0.0.1:20111"]}),
            "worker 0 and worker 1 are on one machine with one port, 20111",
        ),
        (changed(cluster={"worker": ["10.1.1.1:1", "10.1.1.1:1"]}), "have the same address"),
        (
            changed(cluster={"worker": ["no-such-host.invalid:1"]}),
            "worker 0's host 'no-such-host.invalid' is not found",
        ),
        (changed(cluster={"worker": ["8.8.8.8:2222"]}), "worker 0's host '8.8.8.8' is a public address"),
        (changed(cluster={"worker": ["[2001:4860:4860::8888]:1"]}), "is a public address"),
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
                f"port {port} of this machine is taken: end the program that has it, or choose another port"
            ]
            other = build_tf_config([f"localhost:{port}", f"localhost:{free_port()}"], 1)
            assert check_tf_config(other) == [], "another worker's port may be in use: it has started already"
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


RATE, SIZES, NAMES = 0.5, (1, [2, {"a": None}]), {"b"}


def deco(function):
    return function


@deco
def helper(x, rate=RATE):
    path = textwrap.dedent("  a")
    return [y * rate for y in x], path, SIZES[0], sorted(NAMES)


def program():
    print(helper([1, 2]), data.TRAIN_EXAMPLES, check_tf_config.__name__, __name__)


def run_written(path, **env):
    root = str(cluster.__path__[0]).rsplit("course_utils", 1)[0]
    answer = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": root, **env},
        cwd=path.parent,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_a_script_holds_the_source_and_what_it_needs(tmp_path):
    path = tmp_path / "train.py"
    path.write_text("something older, and longer " * 1000)
    write_script(path, deco, helper, main=program)
    assert run_written(path) == "([0.5, 1.0], 'a', 1, ['b']) 1536 check_tf_config __main__\n"
    text = path.read_text()
    for line in "import textwrap", "from course_utils import data", "RATE = 0.5", "@deco\ndef helper(x, rate=RATE):":
        assert line in text
    assert text.index("from course_utils") < text.index("import textwrap")


OPEN_FILE = sys.stdout


def uses_a_file():
    OPEN_FILE.write("")


def uses_another():
    uses_a_file()


def uses_nothing_that_exists():
    return not_there  # noqa: F821


def takes(argument):
    return argument


@pytest.mark.parametrize(
    "functions, main, words",
    [
        ([], uses_a_file, "uses_a_file uses OPEN_FILE, which is no constant"),
        ([], uses_nothing_that_exists, "uses not_there, which does not exist here: run the cell"),
        ([], takes, "main=takes: must take no arguments"),
        ([3], program, "functions: 3 is no function with a name"),
        ([], lambda: 0, "is no function with a name"),
        ([print], program, "is no function with a name"),
        ([], eval("lambda: 0", {}), "no function"),
    ],
)
def test_a_script_that_cannot_be_written(tmp_path, functions, main, words):
    with pytest.raises(ValueError, match=words):
        write_script(tmp_path / "train.py", *functions, main=main)
    assert not list(tmp_path.iterdir())


def test_a_function_without_source(tmp_path):
    space = {"__name__": "nowhere"}
    exec(compile("def typed():\n    pass", "<nowhere>", "exec"), space)  # "<string>" is what `python -c` ran
    with pytest.raises(ValueError, match="the source of typed is not to be had: define it in a cell"):
        write_script(tmp_path / "train.py", main=space["typed"])


def test_a_function_that_was_not_named(tmp_path):
    """Cells' functions belong to `__main__`, and cannot be imported."""
    source = "def inner():\n    pass\n\ndef outer():\n    inner()\n"
    linecache.cache["cell.py"] = (len(source), None, source.splitlines(keepends=True), "cell.py")
    space = {"__name__": "__main__"}
    exec(compile(source, "cell.py", "exec"), space)
    with pytest.raises(ValueError, match="outer uses inner, which is a function of the notebook: name it, too"):
        write_script(tmp_path / "train.py", main=space["outer"])
    write_script(tmp_path / "train.py", space["inner"], main=space["outer"])
    del linecache.cache["cell.py"]
    assert "def inner():\n    pass\n\n\ndef outer():" in (tmp_path / "train.py").read_text()
