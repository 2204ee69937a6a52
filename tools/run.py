"""Execute every notebook and leave it as a page, build/NAME.html; the notebooks themselves stay as they are."""

import pathlib
import sys

import jinja2
import nbconvert
import refresh

BUILD = pathlib.Path(__file__).resolve().parent.parent / "build"
FOLDED_SOLUTIONS = """
{%- extends 'lab/index.html.j2' -%}
{%- block input -%}
{%- if cell.metadata.get('jupyter', {}).get('source_hidden') -%}
<details><summary>Solution</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock input -%}
"""


def page(notebook, title):
    """The notebook as one HTML page, its solutions folded as they are in Jupyter."""
    exporter = nbconvert.HTMLExporter(
        extra_loaders=[jinja2.DictLoader({"folded.html.j2": FOLDED_SOLUTIONS})], template_file="folded.html.j2"
    )
    return exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})[0]


def main(arguments):
    failed = False
    for path in refresh.chosen(arguments, __doc__):
        BUILD.mkdir(exist_ok=True)
        print(f"{path.stem} …", end=" ", flush=True)
        notebook, seconds, failure = refresh.execute(path)
        target = BUILD / f"{path.stem}.html"
        target.write_text(page(notebook, path.stem), encoding="utf-8")
        print(
            f"{failure}\n" if failure else "",
            f"{seconds:.0f} s, {target.relative_to(BUILD.parent)}",
            sep="",
            flush=True,
        )
        failed |= bool(failure)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
