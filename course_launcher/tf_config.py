"""TF_CONFIG, the text from which each process of a cluster learns where all of them
are, and which one it is.
"""

import ipaddress
import json
import queue
import re
import socket
import threading

from course_utils.arguments import whole_number
from course_utils.language import translated as _

ROLES = ("chief", "worker", "ps", "evaluator")
LOOK_UP = 5
"""Seconds in which a host's name must be found."""


def build_tf_config(workers: list[str], index: int) -> str:
    """Return the value of TF_CONFIG for one of several workers, as JSON text.

    Args:
        workers: each worker's address, `"host:port"`, the same list in the same order
            for all of them.
        index: which of them this is, from 0; worker 0 is the chief.

    Raises:
        ValueError: for an empty list, an address that is none, or an index that is not
            in the list.
    """
    if isinstance(workers, str) or not workers:
        raise ValueError(
            _(
                "workers={workers!r}: must be a list of addresses, such as "
                "['10.0.0.1:2222', '10.0.0.2:2222']",
                workers=workers,
            )
        )
    for address in workers:
        if not _split(address):
            raise ValueError(
                _(
                    "workers: {address!r} is no address; it must be "
                    "'host:port', with a port from 1 to 65535",
                    address=address,
                )
            )
    index = whole_number(
        "index", index, 0, len(workers) - 1, _("the last of the workers")
    )
    return json.dumps(
        {
            "cluster": {"worker": list(workers)},
            "task": {"type": "worker", "index": index},
        }
    )


def check_tf_config(text: str) -> list[str]:
    """Return what is wrong with this value of TF_CONFIG, each with the remedy.

    It looks at the text, looks up the hosts, and tries whether this process's own port
    is free on this machine: so ask on the machine, and before the strategy is made.

    Returns:
        A list of sentences, empty if all is well.
    """
    try:
        config = json.loads(text)
    except (TypeError, ValueError) as problem:
        place = (
            _(
                " (line {line}, column {column})",
                line=problem.lineno,
                column=problem.colno,
            )
            if isinstance(problem, json.JSONDecodeError)
            else ""
        )
        return [
            _(
                "it is not JSON{place}: write it with json.dumps, or with "
                "build_tf_config",
                place=place,
            )
        ]
    config = config if isinstance(config, dict) else {}
    parts = {name: config.get(name) for name in ("cluster", "task")}
    missing = [
        _missing(name)
        for name, value in parts.items()
        if not (isinstance(value, dict) and value)
    ]
    if missing:
        return missing
    cluster, task = config["cluster"], config["task"]
    findings = _role_findings(cluster, task)
    names, hosts, ports, places = {}, {}, {}, {}
    for role, addresses in cluster.items():
        for index, address in _tasks(addresses).items():
            name, host_and_port = f"{role} {index}", _split(address)
            if not host_and_port:
                findings.append(
                    _(
                        "{name}'s address {address!r} is not 'host:port' with "
                        "a port from 1 to 65535",
                        name=name,
                        address=address,
                    )
                )
            elif address in names:
                findings.append(
                    _(
                        "{first} and {name} have the same address, {address}: "
                        "each needs its own",
                        first=names[address],
                        name=name,
                        address=address,
                    )
                )
            else:
                names[address] = name
                hosts[name], ports[name] = host_and_port
                findings += _place_findings(name, *host_and_port, places)
    here = [
        name
        for name, host in hosts.items()
        if re.fullmatch(r"localhost|127\.[\d.]+|::1", host)
    ]
    if 0 < len(here) < len(hosts):
        findings.append(
            _(
                "{name}'s host {host!r} is on each machine that machine "
                "itself: where there are several, write its name or address",
                name=here[0],
                host=hosts[here[0]],
            )
        )
    port = ports.get(f"{task.get('type')} {task.get('index')}")
    if port is not None and not _free(port):
        findings.append(
            _(
                "port {port} of this machine is taken: end the program that "
                "has it, or choose another port",
                port=port,
            )
        )
    return findings


def _tasks(addresses):
    """Return `{index: address}` of a role's list, or of TensorFlow's sparse `{"1":
    address}`; empty for anything else.
    """
    if isinstance(addresses, list):
        return {str(index): address for index, address in enumerate(addresses)}
    return (
        addresses
        if isinstance(addresses, dict) and all(index.isdecimal() for index in addresses)
        else {}
    )


def _missing(key):
    if key == "cluster":
        return _(
            "'cluster' is missing: it must map each role to its addresses, "
            "{'worker': ['host:port', …]}"
        )
    return _(
        "'task' is missing: it must say which process this is, {'type': "
        "'worker', 'index': 0}"
    )


def _role_findings(cluster, task):
    old, known = {"master": _(" (an old name of 'chief')")}, ", ".join(ROLES)
    findings = [
        _(
            "'cluster' knows no role {role!r}: {known}{remark}",
            role=role,
            known=known,
            remark=old.get(role, ""),
        )
        for role in cluster
        if role not in ROLES
    ]
    for role, addresses in cluster.items():
        if not _tasks(addresses):
            findings.append(
                _(
                    "cluster[{role!r}] must be a list of addresses, ['host:port', …]",
                    role=role,
                )
            )
    role, index = task.get("type"), task.get("index")
    findings += [
        _("task[{key!r}] is missing", key=key)
        for key in ("type", "index")
        if key not in task
    ]
    # it is none of them: so Kubeflow's TFJob writes it
    if role == "evaluator" and role not in cluster:
        return findings
    if "type" in task and role not in list(cluster):
        findings.append(
            _(
                "the task's type is {role!r}, and 'cluster' has no such role: {roles}",
                role=role,
                roles=", ".join(cluster),
            )
        )
    elif "index" in task and (tasks := _tasks(cluster.get(role))):
        allowed = (
            _("a whole number from 0 to {last}", last=len(tasks) - 1)
            if isinstance(cluster[role], list)
            else ", ".join(tasks)
        )
        if isinstance(index, bool) or str(index) not in tasks:  # "0" is read as 0
            findings.append(
                _(
                    "the task's index is {index!r}, and must be {allowed}",
                    index=index,
                    allowed=allowed,
                )
            )
    return findings


def _split(address):
    """Return `(host, port)` of "host:port" or "[IPv6]:port"; None for anything else."""
    parts = (
        re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})", address)
        if isinstance(address, str)
        else None
    )
    return (
        (parts[1].strip("[]"), int(parts[2]))
        if parts and 0 < int(parts[2]) < 2**16
        else None
    )


def _place_findings(name, host, port, places):
    """Return what is found on where an address leads; `places` maps what was found
    before to the name that has it.
    """
    numbers = _look_up(host)
    if not numbers:
        return [
            _(
                "{name}'s host {host!r} is not found: check its spelling, "
                "or write its IP address",
                name=name,
                host=host,
            )
        ]
    findings = []
    if any(number.is_global for number in numbers):
        findings.append(
            _(
                "{name}'s host {host!r} is a public address, and TensorFlow's "
                "servers obey whoever connects: use the addresses of a private "
                "network",
                name=name,
                host=host,
            )
        )
    place = (
        "this machine"
        if any(number.is_loopback for number in numbers)
        else min(map(str, numbers)),
        port,
    )
    if place in places:
        findings.append(
            _(
                "{first} and {name} are on one machine with one port, {port}: "
                "each needs its own",
                first=places[place],
                name=name,
                port=port,
            )
        )
    places.setdefault(place, name)
    return findings


def _look_up(host):
    """Return the host's IP addresses; none if it is not found in time (by a thread,
    since a look-up has no deadline).
    """
    answers = queue.SimpleQueue()

    def ask():
        try:
            answers.put(
                {
                    ipaddress.ip_address(str(answer[4][0]).split("%")[0])
                    for answer in socket.getaddrinfo(host, None)
                }
            )
        except (OSError, UnicodeError):
            answers.put(set())

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=LOOK_UP)
    except queue.Empty:
        return set()


def _free(port):
    """Return whether a server could listen on this port of this machine, on every
    interface, as TensorFlow's does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError:
            return False
    return True
