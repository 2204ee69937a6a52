"""The texts of errors, without what differs from run to run."""

import re

from course_utils.language import translated as _


def message(problem: BaseException) -> list[str]:
    """Return the lines of an error's text, at least one, without the preambles that
    TensorFlow puts before what happened.
    """
    text = re.sub(
        r"\x1b\[[\d;]*m|\{\{function_node .*?\}\} ?", "", str(problem)
    ).strip() or _("(no message)")
    # what happened comes last, after where it was written
    if text.startswith("Graph execution error:"):
        text = text.split("\n\n")[-1].strip()
    # a list or not: a matter of timing
    text = re.sub(r"^\d+ root error\(s\) found\.\s+\(0\) \w+:\s+", "", text)
    return text.splitlines()


def opening(problem: BaseException, sentences: int = 1) -> str:
    """Return the first sentences of an error's text, without what differs from run to
    run and from one build to another.
    """
    text = re.sub(r" \[Op:.*", "", message(problem)[0])
    text = re.sub(r"<[\w.]*?(\w+) object at 0x[0-9a-f]+>", r"<\1>", text)
    return " ".join(re.split(r"(?<=[.!?]) (?=[A-Z])", text)[:sentences])
