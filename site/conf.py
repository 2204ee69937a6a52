"""The course as a website, from its README, its pages and its stored notebooks. `make
site` builds it, offline.
"""

import json
import pathlib
import re

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
    "CONTRIBUTING.md",
    "docs/*.md",
    "notebooks/*.ipynb",
    "notebooks/*.md",
    "course_*/README.md",
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
notebooks/errors
notebooks/glossary
docs/*
course_*/README
CONTRIBUTING
```
"""


def prepare(app, name, source):
    """Give the first page its contents, fold set-up cells and solutions, and do without
    pictures from elsewhere.
    """
    source[0] = re.sub(
        r"\]\((?:\.\./)?((?:cluster|LICENSE|CITATION)[^)]*)\)",
        rf"](https://github.com/{REPOSITORY}/blob/{REVISION}/\1)",
        source[0],
    )
    if name == "README":
        source[0] = re.sub(r"\[!\[.*\n", "", source[0]) + CONTENTS
    elif name.startswith("notebooks/0"):
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if (
                cell["metadata"].get("jupyter", {}).get("source_hidden")
                or cell["id"] == "set-up"
            ):
                cell["metadata"].setdefault("tags", []).append("hide-input")
            for output in cell.get("outputs", []):
                if (
                    alternative := output.get("metadata", {})
                    .get("image/png", {})
                    .get("alt")
                ):
                    cell["metadata"]["mystnb"] = {"image": {"alt": alternative}}
        source[0] = re.sub(
            r'<img src=\\"[^>]*alt=\\"(Open in \w+)\\">', r"\1", json.dumps(notebook)
        )


def setup(app):
    app.connect("source-read", prepare)
