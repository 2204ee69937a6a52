"""Numbers as words."""


def counted(number: float, noun: str) -> str:
    """Return a number with its noun: "1 device", "1,024 devices"."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"
