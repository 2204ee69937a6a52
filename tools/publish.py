"""Set where the course is published, in every place that says so.

usage: python tools/publish.py OWNER/NAME     write the repository into tools/repository.txt, and what follows from it
       python tools/publish.py                write what follows from tools/repository.txt
       python tools/publish.py --check        change nothing; name what disagrees, and exit with 1

The one place that holds it is tools/repository.txt. The Colab links of the notebooks and of the README, the
notebooks' set-up cells and the README's `git clone` are derived. OWNER/NAME means: not published yet.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = r"[\w.-]+/[\w.-]+"
DERIVED = (
    rf"(?<=colab\.research\.google\.com/github/){NAME}(?=/blob/)",
    rf"(?<=git clone https://github\.com/){NAME}",
    rf'(?<=REPOSITORY = "){NAME}(?=")',
    rf'(?<=REPOSITORY = \\"){NAME}(?=\\")',  # the same in a notebook's JSON
)


def rewritten(text, repository):
    for pattern in DERIVED:
        text = re.sub(pattern, lambda _: repository, text)
    return text


def main(arguments, root=ROOT):
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    place = root / "tools" / "repository.txt"
    check = arguments == ["--check"]
    if arguments and not check:
        if len(arguments) != 1 or not re.fullmatch(NAME, arguments[0]):
            print(
                f"publish.py: {' '.join(arguments)!r} is not OWNER/NAME, a GitHub user and a repository",
                file=sys.stderr,
            )
            return 2
        place.write_text(arguments[0] + "\n", encoding="utf-8")
    repository = place.read_text(encoding="utf-8").strip()
    wrong = []
    for path in [root / "README.md", *sorted((root / "notebooks").glob("*.ipynb"))]:
        text = path.read_text(encoding="utf-8")
        if rewritten(text, repository) != text:
            wrong.append(path.relative_to(root))
            if not check:
                path.write_text(rewritten(text, repository), encoding="utf-8")
    verdict = f"does not say {repository}; type: python tools/publish.py" if check else f"now says {repository}"
    for path in wrong:
        print(f"{path}: {verdict}")
    return int(check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
