"""Say what Colab has otherwise than the list that the course is rehearsed with.

usage: python tools/colab_list.py NEWER_LIST     a list of packages as `pip freeze` prints it, on Colab or from it

Prints each package of tests/hosted/colab.txt whose version is another one, or that is gone; then exits with 1.
"""

import pathlib
import re
import sys

OURS = pathlib.Path(__file__).resolve().parent.parent / "tests" / "hosted" / "colab.txt"


def versions(text):
    pairs = re.findall(r"^([\w.-]+)==(\S+)", text, re.M)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        newer = versions(pathlib.Path(arguments[0]).read_text(encoding="utf-8"))
    except OSError as problem:
        print(f"colab_list.py: {arguments[0]} cannot be read ({problem.strerror})", file=sys.stderr)
        return 2
    if not newer:
        print(f"colab_list.py: {arguments[0]} names no package as name==version", file=sys.stderr)
        return 2
    ours = versions(OURS.read_text(encoding="utf-8").partition("# To rehearse")[0])
    changed = {name: version for name, version in ours.items() if newer.get(name) != version}
    for name, version in changed.items():
        print(f"{name}: {version} in tests/hosted/colab.txt, {newer.get(name, 'none')} in the newer list")
    if not changed:
        print(f"all {len(ours)} packages are the same")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
