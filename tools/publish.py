"""Set where the course is published, in every place that says so.

usage: python tools/publish.py OWNER/NAME [REVISION]   write the repository into
       tools/repository.txt, and what follows python tools/publish.py
       write what follows from tools/repository.txt python tools/publish.py --check
       [OWNER/NAME]    change nothing; name what disagrees, and exit with 1

The one place that holds it is tools/repository.txt: the repository, and the branch or
tag, by default main. All links to it, the notebooks' set-up cells and the README's `git
clone` follow. Before a release, name its tag: then a notebook opened from that tag
installs the helpers of that tag. OWNER/NAME means: not published yet. With a
repository, --check also asks whether tools/repository.txt says this one.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = r"[\w.-]+/[\w.-]+"
REVISION = r"[\w.-]+"
# what stands before the repository, and between it and the revision, if there is one
PLACES = (
    (r"colab\.research\.google\.com/github/", "/blob/(?=[\\w.-]+/notebooks/)"),
    (r"https://github\.com/", "/blob/(?=[\\w.-]+/notebooks/)"),
    (r"git\+https://github\.com/", "@"),
    (r"git clone https://github\.com/", None),
    (r"https://github\.com/", "(?=/actions/workflows/)"),
    (r"url: https://github\.com/", None),
)


def published(root=ROOT):
    """Return the repository, and the branch or tag, that tools/repository.txt names."""
    return [
        *(root / "tools" / "repository.txt").read_text(encoding="utf-8").split(),
        "main",
    ][:2]


def slug(heading):
    """Return a heading's anchor, as JupyterLab makes it, and `make site` too; GitHub's
    differ in case, which it overlooks.
    """
    return heading.replace(" ", "-")


def rewritten(text, repository, revision="main"):
    for before, between in PLACES:
        if between and not between.startswith("("):
            pattern = f"({before}){NAME}({between}){REVISION}"
            text = re.sub(
                pattern,
                lambda place: f"{place[1]}{repository}{place[2]}{revision}",
                text,
            )
        else:
            text = re.sub(
                f"({before}){NAME}{between or ''}",
                lambda place: place[1] + repository,
                text,
            )
    return text


def main(arguments, root=ROOT):
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    check = arguments[:1] == ["--check"]
    given = arguments[check:]
    if not all(map(re.fullmatch, (NAME, REVISION), given)) or len(given) > 2 - check:
        print(
            (
                f"publish.py: {' '.join(given)!r} is not OWNER/NAME, a GitHub user and "
                "a repository"
            ),
            file=sys.stderr,
        )
        return 2
    if given and not check:
        (root / "tools" / "repository.txt").write_text(
            " ".join(given) + "\n", encoding="utf-8"
        )
    repository, revision = published(root)
    wrong = []
    for path in [
        root / "README.md",
        root / "CITATION.cff",
        *sorted((root / "notebooks").glob("*.ipynb")),
        *sorted((root / "translations").rglob("*.po")),
        *[path for path in [root / "README.fr.md"] if path.exists()],
        *sorted((root / "notebooks" / "fr").glob("*.*")),
    ]:
        text = path.read_text(encoding="utf-8")
        if rewritten(text, repository, revision) != text:
            wrong.append(path.relative_to(root))
            if not check:
                path.write_text(rewritten(text, repository, revision), encoding="utf-8")
    verdict = (
        "does not say {}; type: python tools/publish.py" if check else "now says {}"
    )
    for path in wrong:
        print(f"{path}: {verdict.format(f'{repository} {revision}')}")
    elsewhere = check and given and given[0] != repository
    if elsewhere:
        print(
            f"tools/repository.txt says {repository}, and this is {given[0]}; type: "
            f"python tools/publish.py {given[0]}"
        )
    return int(check and bool(wrong or elsewhere))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
