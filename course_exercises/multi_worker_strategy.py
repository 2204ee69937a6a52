"""Checks of the exercises of notebook 03."""

import inspect
import json
import math

from course_exercises import Unanswered, exercise
from course_utils.errors import message
from course_utils.language import translated as _


@exercise(1)
def tf_config(function):
    """Check exercise 1: `function(hosts, port, index)` is the text of TF_CONFIG for
    that worker.
    """
    for hosts, port, index in (
        (["node-1", "node-2"], 2222, 1),
        (["a", "b", "c"], 8470, 0),
        (["a", "b", "c"], 8470, 2),
    ):
        text = function(list(hosts), port, index)
        if not isinstance(text, str):
            return _(
                "An environment variable is text, and you return a {kind}: json.dumps.",
                kind=type(text).__name__,
            )
        try:
            config = json.loads(text)
        except ValueError as problem:
            return _(
                "It is not JSON ({problem}): json.dumps writes it.", problem=problem
            )
        right = {
            "cluster": {"worker": [f"{host}:{port}" for host in hosts]},
            "task": {"type": "worker", "index": index},
        }
        for key, value in right.items():
            answer = config.get(key) if isinstance(config, dict) else None
            if answer != value:
                return _(
                    "For {hosts}, port {port}, worker {index}, {key!r} is "
                    "{answer}, and should be {value}.",
                    hosts=hosts,
                    port=port,
                    index=index,
                    key=key,
                    answer=answer,
                    value=value,
                )
    return ""


@exercise(2)
def sum_over_workers(function, run=None):
    """Check exercise 2: on two workers `function()` returns, on both, the sum of what
    both
    hold: 12.0.

    run: what runs it on two workers and returns both results; `launcher.run_on_workers`
        unless a test puts another.
    """
    import course_launcher as launcher

    try:
        answer = (run or launcher.run_on_workers)(inspect.unwrap(function), timeout=60)
    except launcher.WorkerError as problem:
        return _("On the workers: {reason}.", reason=message(problem)[0])
    if ... in answer or None in answer:
        raise Unanswered
    if answer != [12.0, 12.0]:
        return _(
            "Each worker holds 1 + 2 + 3, so both should return 12.0; they "
            "return {answer}.",
            answer=answer,
        )
    return ""


@exercise(3)
def how_often_to_save(lost_share, best_interval):
    """Check exercise 3: which share of the time saves and failures take, and the
    interval between two saves at which it is least.

    Args:
        lost_share: a function of `interval, save, restart, between_failures`, in
            seconds.
        best_interval: a function of the last three of them.

    Source: J. W. Young, A first order approximation to the optimum checkpoint interval,
        1974; J. T. Daly, A higher order estimate, 2006.
    """
    cases = (10, 60, 21_600), (0.5, 20, 3600), (120, 600, 86_400)
    for save, restart, between_failures in cases:
        case = f"save={save}, restart={restart}, between_failures={between_failures}"
        costs = save, restart, between_failures
        best = math.sqrt(2 * save * between_failures)
        for interval in best / 5, best, 5 * best:
            half = interval / 2
            right = save / interval + (half + restart) / between_failures
            answer = lost_share(interval, *costs)
            if not math.isclose(answer, right, rel_tol=0.01):
                return _(
                    "interval={interval:.0f}, {case}: of each second "
                    "{right:.4f} are lost, and you say {answer:.4f}. A "
                    "save in each interval; and in the time between two "
                    "failures half an interval, and a new start.",
                    interval=interval,
                    case=case,
                    right=right,
                    answer=answer,
                )
        answer = best_interval(*costs)
        if not math.isclose(answer, best, rel_tol=0.01):
            return _(
                "{case}: least is lost with {best:.0f} seconds between two "
                "saves, and you say {answer:.0f}. Where is the derivative "
                "of the share zero?",
                case=case,
                best=best,
                answer=answer,
            )
    return ""
