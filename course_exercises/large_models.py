"""Checks of the exercises of notebook 05."""

from course_exercises import exercise, whole
from course_utils.language import counted, translated as _


@exercise(1)
def ring_order(chunk_to_send):
    """Check exercise 1: `chunk_to_send(device, step, num_devices)` is the chunk that
    goes to the next device.
    """
    for n in 4, 5:
        # whose contributions each chunk contains
        held = [[{device} for _ in range(n)] for device in range(n)]
        for step in range(n - 1):
            chosen = [chunk_to_send(device, step, n) for device in range(n)]
            for chunk in chosen:
                if whole(chunk) is None:
                    return _(
                        "A chunk's number must be a whole number, not {chunk!r}.",
                        chunk=chunk,
                    )
            chosen = [int(chunk) for chunk in chosen]
            if any(not 0 <= chunk < n for chunk in chosen):
                device = next(d for d in range(n) if not 0 <= chosen[d] < n)
                return _(
                    "With {n} devices, in step {step} device {device} "
                    "sends chunk {chunk}, and there are only chunks 0 to "
                    "{last}: go round with % num_devices.",
                    n=n,
                    step=step,
                    device=device,
                    chunk=chosen[device],
                    last=n - 1,
                )
            if len(set(chosen)) < n:
                return _(
                    "In step {step} two devices send the same chunk "
                    "({chosen}): each must send another one.",
                    step=step,
                    chosen=chosen,
                )
            arriving = [set(held[device][chosen[device]]) for device in range(n)]
            for device in range(n):
                receiver, chunk = (device + 1) % n, chosen[device]
                twice = held[receiver][chunk] & arriving[device]
                if twice:
                    return _(
                        "In step {step} device {device} sends chunk {chunk} to "
                        "device {receiver}, which would add device {other}'s "
                        "part a second time. After step 0, send what has just "
                        "arrived.",
                        step=step,
                        device=device,
                        chunk=chunk,
                        receiver=receiver,
                        other=min(twice),
                    )
                held[receiver][chunk] |= arriving[device]
        complete = [sum(len(chunk) == n for chunk in row) for row in held]
        if complete != [1] * n:
            return _(
                "After {steps} steps each device must hold one complete chunk; "
                "yours hold {complete}. What arrives in one step must "
                "travel on in the next.",
                steps=n - 1,
                complete=complete,
            )
    return ""


@exercise(2)
def micro_batches(function):
    """Check exercise 2: `function(stages, idle)` is the least m for which (p - 1)/(m +
    p - 1) ≤ idle.
    """
    from course_planner import bubble_fraction

    for stages, idle in (4, 0.1), (8, 0.25), (2, 0.5), (1, 0.1):
        answer = function(stages, idle)
        answer, given = whole(answer), answer
        if answer is None:
            return _(
                "The number of micro-batches must be a whole number, not "
                "{given!r}: round up.",
                given=given,
            )
        if answer < 1:
            return _(
                "For {stages} it says {answer:g}: at least one micro-batch is needed.",
                stages=counted(stages, "stage", "stages"),
                answer=answer,
            )
        if bubble_fraction(stages, answer) > idle:
            share = bubble_fraction(stages, answer)
            return _(
                "With {stages} stages and {answer:g} micro-batches each "
                "still waits {share:.0%} of the time.",
                stages=stages,
                answer=answer,
                share=share,
            )
        if answer > 1 and bubble_fraction(stages, answer - 1) <= idle:
            return _(
                "{answer:g} are enough for {stages} stages and {idle:.0%}, "
                "but so are fewer.",
                answer=answer,
                stages=stages,
                idle=idle,
            )
    return ""


@exercise(3)
def state_bytes(function):
    """Check exercise 3: `function(parameters, devices, level)` is what ZeRO of this
    level leaves on each device, in bytes.

    Weights, gradients and Adam's two moments of 4 bytes; level 0 divides nothing, 1 the
    moments, 2 the gradients too, 3 the weights too; devices divide parameters.
    """
    for parameters, devices in (1000, 4), (1200, 8), (600, 1):
        for level in 0, 1, 2, 3:
            answer = function(parameters, devices, level)
            answer, given = whole(answer), answer
            case = _(
                "{parameters:,} weights, {devices}, ZeRO-{level}",
                parameters=parameters,
                devices=counted(devices, "device", "devices"),
                level=level,
            )
            if answer is None:
                return _(
                    "{case}: bytes are a whole number, and you return {given!r}.",
                    case=case,
                    given=given,
                )
            parts = [4, 4, 8]  # weights, gradients, moments, each undivided or divided
            right = sum(
                parameters * size // (devices if level >= 3 - k else 1)
                for k, size in enumerate(parts)
            )
            if answer == 16 * parameters // devices != right:
                return _(
                    "{case}: you divide everything; what is not divided at "
                    "this level stays whole.",
                    case=case,
                )
            if answer == 16 * parameters != right:
                return _(
                    "{case}: you divide nothing; the moments are the first "
                    "to be divided.",
                    case=case,
                )
            if answer != right:
                return _(
                    "{case}: {right:,} bytes are left on each device, and "
                    "you say {answer:,}.",
                    case=case,
                    right=right,
                    answer=answer,
                )
    return ""
