"""Look at every external link of the course, and note in tools/links.txt when it was last seen alive.

usage: python tools/links.py

Prints the links that do not answer, and exits with 1 if there are any. A test compares the list with the pages, and
checks every relative link; this tool is for a machine with a network, now and then.
"""

import concurrent.futures
import datetime
import functools
import pathlib
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

import nbformat
import publish

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLACE = pathlib.Path(__file__).with_suffix(".txt")
OWN = tuple(
    f"https://{host}/{publish.published()[0]}/blob/" for host in ("colab.research.google.com/github", "github.com")
)


def pages(root=ROOT):
    return [root / "README.md", *sorted(p for p in (root / "notebooks").iterdir() if p.suffix in (".ipynb", ".md"))]


@functools.cache
def prose(page):
    """The Markdown of a page, less its code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n\n".join(cell.source for cell in nbformat.reads(text, 4).cells if cell.cell_type == "markdown")
    return re.sub(
        r"^```.*?^```|`[^`\n]+`", lambda code: "" if code[0].startswith("```") else "code", text, flags=re.M | re.S
    )


def targets(page):
    return re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"", prose(page))


def slug(heading):
    """A heading's anchor, as JupyterLab makes it, and `make site` too; GitHub's differ in case, which it overlooks."""
    return heading.replace(" ", "-")


def anchors(page):
    return [slug(heading) for heading in re.findall(r"^#+ (.+)", prose(page), re.M)]


def broken(page):
    """The relative links of a page that lead nowhere."""
    found = []
    for link in (one or other for one, other in targets(page)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / urllib.parse.unquote(name) if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def external(page):
    return [url for pair in targets(page) for url in pair if url.startswith("http") and not url.startswith(OWN)]


def used():
    return sorted({url for page in pages() for url in external(page)})


def listed():
    return dict(reversed(line.split(" ", 1)) for line in PLACE.read_text(encoding="utf-8").splitlines())


def alive(url):
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (link check of a course)"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return True
    except urllib.error.HTTPError as problem:
        return problem.code in (403, 429)  # there, and not for programs
    except OSError:
        return False


def main(arguments):
    if arguments:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    before, now = listed(), used()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        seen = dict(zip(now, pool.map(alive, now), strict=True))
    today = datetime.date.today().isoformat()
    dates = {url: today if seen[url] else before.get(url, "never") for url in now}
    PLACE.write_text("".join(f"{date} {url}\n" for url, date in dates.items()), encoding="utf-8")
    for url in (url for url in now if not seen[url]):
        print(f"{url}: no answer now; last seen {dates[url]}")
    return int(not all(seen.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
