"""The course as a website, from its README, its pages and its stored notebooks. `make
site` builds it; after the first time offline.
"""

import json
import pathlib
import re
import shutil
import zipfile

from tools import publish

ROOT = pathlib.Path(__file__).resolve().parent.parent

REPOSITORY, REVISION = publish.published()

project = html_title = "Distributed training with TensorFlow"
html_short_title = "The course"
copyright = "the course's authors, MIT licence"
extensions = ["myst_nb"]
root_doc = "README"
include_patterns = [
    "README.md",
    "README.fr.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "notebooks/*.ipynb",
    "notebooks/*.md",
    "notebooks/fr/*.ipynb",
    "notebooks/fr/*.md",
    "course_*/README.md",
    "tests/README.md",
    "site/plan.md",
]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": f"https://github.com/{REPOSITORY}",
    "repository_branch": REVISION,
    "path_to_docs": ".",
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "use_repository_button": True,
    "home_page_in_toc": True,
    "navbar_persistent": [],
}
html_static_path = ["static"]
html_css_files = ["course.css"]
html_js_files = [("errors.js", {"defer": "defer"})]
html_show_sourcelink = False
nb_execution_mode = "off"
nb_code_prompt_show = "Show the cell"
nb_code_prompt_hide = "Hide the cell"
nb_merge_streams = True
# here, and tested otherwise
linkcheck_ignore = [
    rf"https://(colab\.research\.google|kaggle|github)\.com/.*{REPOSITORY}"
]
linkcheck_anchors = False
myst_heading_anchors = 4
myst_heading_slug_func = (
    "tools.publish.slug"  # in tools/: anchors as JupyterLab makes them
)

CONTENTS = """
```{toctree}
:hidden:
:glob:

notebooks/0*
site/plan
notebooks/errors
notebooks/glossary
docs/*
course_*/README
tests/README
CONTRIBUTING
README.fr
notebooks/fr/0*
notebooks/fr/errors
notebooks/fr/glossary
```
"""


def prepare(app, name, source):
    """Give the first page its contents, fold set-up cells and solutions, and do without
    pictures from elsewhere.
    """
    source[0] = re.sub(
        r"\]\((?:\.\./)*((?:cluster|LICENSE|CITATION)[^)]*)\)",
        rf"](https://github.com/{REPOSITORY}/blob/{REVISION}/\1)",
        source[0],
    )
    if name == "README":
        source[0] = re.sub(r"\[!\[.*\n", "", source[0]) + CONTENTS
    elif name == "README.fr":
        source[0] = re.sub(r"\[!\[.*\n", "", source[0])
    elif re.match(r"notebooks/(fr/)?0", name):
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            dress(cell)
        guide(notebook["cells"], name.removeprefix("notebooks/"))
        source[0] = re.sub(
            r'<img src=\\"[^>]*alt=\\"(Open in \w+)\\">', r"\1", json.dumps(notebook)
        )


def dress(cell):
    """Fold a cell that nobody has to read, and give its figures their titles as
    alternative texts.
    """
    folded = cell["metadata"].get("jupyter", {}).get("source_hidden")
    if folded or cell["id"] == "set-up":
        cell["metadata"].setdefault("tags", []).append("hide-input")
    for output in cell.get("outputs", []):
        pictures = output.get("metadata", {}).get("image/png", {})
        if alternative := pictures.get("alt"):
            cell["metadata"]["mystnb"] = {"image": {"alt": alternative}}


def guide(cells, name):
    """Say beside a notebook's title how long it takes, what it is for, and where its
    other language is; at its end what comes next. Put the planner where 05 asks for the
    reader's own numbers.

    name: such as "00_…" or "fr/00_…".
    """
    words = FRENCH if name.startswith("fr/") else ENGLISH
    name = name.removeprefix("fr/")
    by_id = {cell["id"]: cell for cell in cells}
    rows = notebooks_of_the_readme(words)
    purpose, minutes = rows[name]
    figures = sum(
        "image/png" in output.get("data", {})
        for cell in cells
        for output in cell.get("outputs", [])
    )
    line = f"**{minutes} minutes** · {words['to']} {purpose} · {figures} figures · "
    line += words["switch"].format(name=name)
    title, *rest = "".join(by_id["title"]["source"]).split("\n")
    by_id["title"]["source"] = "\n".join([title, "", line, *rest])
    following = list(rows)[list(rows).index(name) + 1 :]
    if following:
        by_id["next"]["source"] = "".join(by_id["next"]["source"]) + offer(
            following[0], words
        )
    if "explore-drawn" in by_id:
        place = cells.index(by_id["explore-drawn"]) + 1
        cells.insert(place, {"cell_type": "markdown", "id": "planner", "metadata": {}})
        cells[place]["source"] = words["planner"]


PLANNER = """Here on the website the planner runs in your browser:

<div id="planner" data-fields="sliders">
Nothing here? A browser takes no programs from files:
<code>python -m http.server -d build/site</code>, then http://localhost:8000.
</div>
<script type="module" src="../_static/plan.js"></script>

More models and machines: [plan a training](../site/plan.md)."""


PLANNER_IN_FRENCH = """Ici, sur le site, le planificateur tourne dans votre navigateur
(en anglais)\u202f:

<div id="planner" data-fields="sliders">
Rien ici\u202f? Un navigateur ne prend pas de programmes à des fichiers\u202f:
<code>python -m http.server -d build/site</code>, puis http://localhost:8000.
</div>
<script type="module" src="../../_static/plan.js"></script>

D'autres modèles et machines\u202f: [plan a training](../../site/plan.md)."""

ENGLISH = {
    "readme": "README.md",
    "folder": "notebooks/",
    "to": "to",
    "switch": "[en français](fr/{name}.ipynb)",
    "planner": PLANNER,
    "next": "Next",
    "able": "You will be able to",
}
FRENCH = {
    "readme": "README.fr.md",
    "folder": "notebooks/fr/",
    "to": "pour",
    "switch": "[in English](../{name}.ipynb)",
    "planner": PLANNER_IN_FRENCH,
    "next": "Ensuite",
    "able": "À la fin, vous savez",
}


def notebooks_of_the_readme(words):
    """Return {name: (what for, minutes)} of the README's table, in its order."""
    readme = (ROOT / words["readme"]).read_text(encoding="utf-8")
    folder = words["folder"]
    rows = rf"^\| ([^|]+) \| \[[^\]]+\]\({folder}(\w+)\.ipynb\) \| (\d+) \|"
    found = re.findall(rows, readme, re.M)
    return {name: (purpose, minutes) for purpose, name, minutes in found}


def offer(name, words):
    """Return what the next notebook is, how long it takes, and what it teaches."""
    path = ROOT / words["folder"] / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join(cells[0]["source"])
    title = re.match(r"# (.+)", text)[1]
    able = words["able"]
    listed = re.search(rf"\*\*{able}\*\*\n\n((?:\d\..+\n)+)", text)[1]
    minutes = notebooks_of_the_readme(words)[name][1]
    return f"""

---

### {words["next"]}: [{title}]({name}.ipynb), {minutes} minutes

{able}

{listed}"""


def bundle(app, exception):
    """Put Pyodide and the planner beside the page that needs them."""
    if exception or app.builder.name != "html":
        return
    pyodide = ROOT / "build" / "npm" / "node_modules" / "pyodide"
    if not (pyodide / "pyodide.mjs").exists():
        raise FileNotFoundError("build/npm has no Pyodide: start this by make site")
    static = pathlib.Path(app.outdir) / "_static"
    (static / "pyodide").mkdir(exist_ok=True)
    for name in PYODIDE:
        shutil.copy(pyodide / name, static / "pyodide" / name)
    sources = [
        path
        for package in ("course_planner", "course_utils")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    sources += [ROOT / "site" / "plan.py", ROOT / "site" / "models.json.gz"]
    with zipfile.ZipFile(static / "planner.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sources:
            inside = path.relative_to(ROOT).as_posix().removeprefix("site/")
            archive.write(path, inside)


PYODIDE = (
    "pyodide.mjs",
    "pyodide.asm.mjs",
    "pyodide.asm.wasm",
    "python_stdlib.zip",
    "pyodide-lock.json",
)


def setup(app):
    app.connect("source-read", prepare)
    app.connect("build-finished", bundle)
