"""Use the course as a reader does, in JupyterLab and a real browser.

Run all, unfold answers, solve the exercises. `make browser` runs it; `make test`
does not, because it takes minutes and needs Chromium. Screenshots: build/browser/.
"""

import functools
import http.server
import os
import pathlib
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import nbformat
import psutil
import pytest
from playwright.sync_api import TimeoutError, expect, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parents[2]
PICTURES = ROOT / "build" / "browser"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
# CI has 75 minutes for everything: there one with motion, one of the reader's own
IN_CI = {"00_data_vs_model_parallelism", "06_your_own_model"}
LEFT_OUT = {*NOTEBOOKS} - IN_CI if os.environ.get("CI") else set()
MINUTE = 60_000  # Playwright counts in ms
expect.set_options(timeout=MINUTE)  # a busy machine is no failure
# warnings, and errors too
STDERR = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']"
QUIET = [
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# sh reads until nobody holds the other end of its stdin any more
LIFELINE = '"$@" & read -r _; kill -TERM $!; wait'


class Lab:
    """A JupyterLab on a copy of the course, and its address.

    No token need be typed with the address. However this process ends, also by
    SIGKILL, JupyterLab ends with it, and ends its kernels.
    """

    def __init__(self, folder):
        self.folder = folder
        shutil.copytree(ROOT / "notebooks", folder / "notebooks")
        news = (
            folder
            / "@jupyterlab"
            / "apputils-extension"
            / "notification.jupyterlab-settings"
        )
        news.parent.mkdir(parents=True)
        news.write_text('{"fetchNews": "false"}')
        config = {
            f"JUPYTER_{name}_DIR": str(folder / name.lower())
            for name in ("CONFIG", "RUNTIME")
        }
        config |= {
            f"JUPYTERLAB_{name}_DIR": str(folder) for name in ("SETTINGS", "WORKSPACES")
        }
        env = os.environ | config | {"PYTHONFAULTHANDLER": "1"}
        jupyter = [
            "jupyter",
            "lab",
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            "--port=0",
        ]
        command = ["sh", "-c", LIFELINE, "lab", sys.executable, "-m", *jupyter]
        self.log = folder / "log"
        ways = {
            "stdin": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "start_new_session": True,
        }
        with open(self.log, "w") as log:
            self.server = subprocess.Popen(
                command, cwd=folder, env=env, stdout=log, **ways
            )

    def wait(self, seconds=60):
        deadline = time.monotonic() + seconds
        while not (
            found := re.search(
                r"http://127\.0\.0\.1:\d+/lab\?token=\w+", self.log.read_text()
            )
        ):
            assert self.server.poll() is None and time.monotonic() < deadline, (
                self.log.read_text()
            )
            time.sleep(0.1)
        self.address = found[0]

    def stacks(self):
        """End the kernels, and return the end of the log.

        Each kernel's last word says where its threads are.
        """
        (lab,) = psutil.Process(self.server.pid).children()
        kernels = lab.children()
        for kernel in kernels:
            kernel.send_signal(signal.SIGABRT)
        psutil.wait_procs(kernels, timeout=30)
        return self.log.read_text()[-20_000:]

    def close(self):
        self.server.stdin.close()
        self.server.wait(30)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.wait()
        yield lab
    finally:
        lab.close()


HOLD = """
import pathlib, signal, sys
from tests.integration import browser
lab = browser.Lab(pathlib.Path(sys.argv[1]))
lab.wait()
print(lab.address, flush=True)
signal.pause()
"""


def test_nothing_is_left_when_the_tests_are_killed(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    tests = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    place = urllib.parse.urlsplit(tests.stdout.readline().strip())
    start = urllib.request.Request(
        f"http://{place.netloc}/api/kernels?{place.query}",
        data=b"{}",
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(start, timeout=60).close()
    left = psutil.Process(tests.pid).children(recursive=True)
    assert len(left) >= 3, "a shell, JupyterLab and a kernel"
    tests.kill()
    tests.wait()
    assert psutil.wait_procs(left, timeout=60)[1] == []


@pytest.fixture(scope="module")
def browser():
    system = shutil.which("chromium") or shutil.which(
        "google-chrome"
    )  # else the one that Playwright installs
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=system, args=["--no-sandbox", *QUIET]
        )
        yield browser
        browser.close()


class Reader:
    """A reader's hands and eyes on one notebook in JupyterLab."""

    def __init__(self, page, lab, name, copy=""):
        """copy: the name of another copy of the notebook, which is opened instead."""
        self.page, self.lab, self.name = page, lab, name
        self.stored = nbformat.read(
            ROOT / "notebooks" / f"{name}.ipynb", as_version=4
        ).cells
        page.goto(
            lab.address.replace(
                "/lab?",
                f"/lab/workspaces/{copy or name}/tree/notebooks/{copy or name}.ipynb?",
            )
        )
        self.cells = page.locator(".jp-Notebook .jp-Cell")
        # The notebook's own indicator says idle before there is a kernel, and what is
        # run then is lost.
        expect(page.locator("#jp-bottom-panel").get_by_text("| Idle")).to_be_visible()
        expect(self.cells).to_have_count(len(self.stored))

    def menu(self, *names):
        for name in names:
            self.page.get_by_role("menuitem", name=name, exact=True).click()

    def cell(self, identity):
        """The cell with this id, scrolled to."""
        place = [cell.id for cell in self.stored].index(identity)
        found = self.cells.nth(place)
        found.scroll_into_view_if_needed()
        return found

    def run_all(self, minutes):
        """Run all cells by the menu.

        It ends with the last one, or with the first that writes a warning or an error.
        """
        self.menu("Run", "Run All Cells")
        try:
            self.page.wait_for_function(
                """stderr => document.querySelector(stderr) || (
                    document.querySelector(
                        '.jp-Notebook-ExecutionIndicator[data-status=idle]'
                    ) && [
                        ...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')
                    ].every(prompt => /^(\\[\\d+\\]:)?$/.test(prompt.textContent)))""",
                arg=STDERR,
                timeout=minutes * MINUTE,
            )
        except TimeoutError:
            self.picture("stuck")
            prompts = self.page.locator(".jp-Cell .jp-InputPrompt").all_inner_texts()
            left = [
                cell.id
                for cell, prompt in zip(self.stored, prompts, strict=True)
                if prompt in ("[*]:", "[ ]:")
            ]
            pytest.fail(
                f"after {minutes} minutes these cells had not ended: {left}\n"
                f"{self.lab.stacks()}"
            )
        assert self.page.locator(STDERR).all_inner_texts() == []

    def picture(self, what):
        self.page.screenshot(path=PICTURES / f"{self.name[:2]}-{what}.png")


@pytest.fixture(
    scope="module", params=[name for name in NOTEBOOKS if name not in LEFT_OUT]
)
def reader(request, lab, browser):
    """A notebook opened, cleared of its stored outputs, and run by the menu."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    reader = Reader(page, lab, request.param)
    reader.picture("opened")
    reader.menu("Edit", "Clear Outputs of All Cells")
    expect(page.locator(".jp-CodeCell .jp-OutputArea-output")).to_have_count(0)
    reader.run_all(minutes=15)
    yield reader
    reader.menu("Kernel", "Shut Down Kernel")
    page.close()


def test_every_figure_can_be_seen(reader):
    drawn = 0
    for cell in reader.stored:
        expected = sum(
            "image/png" in output.get("data", {}) for output in cell.get("outputs", [])
        )
        if expected:
            outputs = reader.cell(cell.id).locator(".jp-OutputArea-output")
            images = outputs.locator(
                "img[src^='data:image/png']"
            )  # those in motion have a test of their own
            assert images.count() == expected, cell.id
            for image in images.all():
                image.scroll_into_view_if_needed()
                box = image.bounding_box()
                assert (
                    image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 300
                ), cell.id
                assert (
                    box["width"] > 300
                    and box["x"] >= 0
                    and box["x"] + box["width"] <= 1200
                ), (cell.id, box)
                drawn += 1
                reader.picture(f"figure-{cell.id}")
    assert drawn >= 3


MOTION = "img[alt^='In motion']"


def moves(image, looks=25):
    """Whether looks at a picture, a second apart, differ.

    Each picture rests for some seconds before it begins again, and a busy machine draws
    late.
    """
    image.scroll_into_view_if_needed()
    image.evaluate("i => i.decode()")
    first = image.screenshot()
    for _ in range(looks):
        image.page.wait_for_timeout(1200)
        if image.screenshot() != first:
            return True
    return False


def test_pictures_in_motion_move_and_a_still_stands_below(reader):
    shown = [
        cell.id for cell in reader.stored if "In motion" in str(cell.get("outputs"))
    ]
    assert len(shown) == {"00": 2, "05": 1}.get(reader.name[:2], 0)
    for identity in shown:
        outputs = reader.cell(identity).locator(".jp-OutputArea-output")
        assert moves(outputs.locator(MOTION))
        assert outputs.locator("img[src^='data:image/png']").count() == 1
        reader.picture(f"motion-{identity}")


def test_a_notebook_that_is_not_trusted_shows_its_stills(lab, browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    name, copy = "00_data_vs_model_parallelism", "never_run"  # what ran is trusted
    folder = lab.folder / "notebooks"
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder / f"{copy}.ipynb")
    reader = Reader(page, lab, name, copy)
    page.get_by_text("Not Trusted").or_(
        page.locator("[title*='not trusted' i]")
    ).first.wait_for(state="attached")
    cell = reader.cell("ring-figure")
    still = cell.locator("img[src^='data:image/png']")
    still.scroll_into_view_if_needed()
    assert still.evaluate("i => i.decode().then(() => i.naturalWidth)") > 300
    assert moves(cell.locator(MOTION)), (
        "an image is what JupyterLab's sanitizer lets through"
    )
    page.close()


def test_folded_answers_open(reader):
    answers = reader.page.locator(".jp-MarkdownOutput details")
    assert answers.count() >= 3
    for answer in answers.all():
        body = answer.locator("p").last
        assert not body.is_visible()
        answer.locator("summary").click()
        expect(body).to_be_visible()
        assert len(body.inner_text()) > 10
    reader.picture("answer")


def test_exercises_can_be_solved(reader):
    solutions = {
        each.id.removeprefix("solution-"): each.source
        for each in reader.stored
        if "solution-" in each.id
    }
    assert len(solutions) >= (
        0 if reader.name.startswith("06") else 2
    )  # there the reader's model is the exercise
    for number, source in solutions.items():
        cell, solution = (
            reader.cell(f"exercise-{number}"),
            reader.cell(f"solution-{number}"),
        )
        assert (
            f"Exercise {number}: not solved yet"
            in cell.locator(".jp-OutputArea").inner_text()
        )

        assert not solution.locator(".cm-content").is_visible()
        solution.locator(".jp-Placeholder-content, .jp-MoreHorizIcon").first.click()
        expect(solution.locator(".cm-content")).to_contain_text(f"Solution {number}")

        cell.locator(".cm-content").click()
        reader.page.keyboard.press("Control+A")
        reader.page.keyboard.insert_text(source)
        reader.page.keyboard.press("Control+Enter")
        verdict = cell.get_by_text(f"Exercise {number}: ✓ right")
        verdict.wait_for(timeout=2 * MINUTE)
        reader.picture(f"exercise-{number}")


def test_links_lead_to_the_glossary_and_to_the_neighbours(reader):
    page = reader.page
    reader.cell("title")
    page.get_by_role("link", name="glossary").first.click()
    expect(page.locator(".jp-MarkdownViewer h1")).to_contain_text("Glossary")
    reader.picture("glossary")
    page.get_by_role("tab", name=f"{reader.name}.ipynb").click()
    neighbour = NOTEBOOKS[
        NOTEBOOKS.index(reader.name) - 1 if reader.name != NOTEBOOKS[0] else 1
    ]
    reader.cell("title").get_by_role(
        "link", name=re.compile(f"^(← )?{neighbour[:2]} ")
    ).click()
    expect(page.get_by_role("tab", name=f"{neighbour}.ipynb")).to_be_visible()


@pytest.mark.parametrize("width", [380, 1200])
def test_the_site_fits_a_phone_and_a_desk(browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    for path in sorted((ROOT / "build" / "site").glob("notebooks/*.html")) + [
        ROOT / "build" / "site" / "index.html"
    ]:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        for image in page.locator(".bd-article img").all():
            image.scroll_into_view_if_needed()
            assert image.evaluate("i => i.decode().then(() => i.naturalWidth)"), (
                path.name
            )
        page.screenshot(path=PICTURES / f"site-{path.stem[:6]}-{width}.png")
    page.close()


@pytest.mark.parametrize("less_motion", [False, True])
def test_the_site_moves_unless_the_reader_asks_for_less(browser, less_motion):
    system = shutil.which("chromium") or shutil.which("google-chrome")
    flags = ["--no-sandbox", *QUIET, *["--force-prefers-reduced-motion"] * less_motion]
    own = browser.browser_type.launch(executable_path=system, args=flags)
    page = own.new_page(viewport={"width": 1200, "height": 900})
    for name, count in ("00_data_vs_model_parallelism", 2), ("05_large_models", 1):
        page.goto((ROOT / "build" / "site" / "notebooks" / f"{name}.html").as_uri())
        assert page.locator(MOTION).count() == count
        looks = 8 if less_motion else 25
        moving = {moves(image, looks) for image in page.locator(MOTION).all()}
        assert moving == {not less_motion}
        folded = page.locator("details.hide", has_text="Code of the figure")
        assert (
            folded.count() >= 5 and not folded.first.locator("pre").first.is_visible()
        )
    own.close()


@pytest.fixture(scope="module")
def served():
    """The site's address on this machine.

    A browser takes no modules from files, and the planner's page is one.
    """
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=ROOT / "build" / "site"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def planned(**choices):
    """What Python answers, here."""
    return runpy.run_path(str(ROOT / "site" / "plan.py"))["answer"](choices)


def same_as_in_python(page, answer):
    expect(page.locator(".plan-advice")).to_have_text(answer["advice"])
    rows = page.locator(".plan-bars tr")
    assert rows.count() == len(answer["bars"])
    for row, held in zip(rows.all(), answer["bars"].values(), strict=True):
        if isinstance(held, str):
            assert row.locator(".cannot").inner_text() == held
            continue
        titles = [part.get_attribute("title") for part in row.locator(".part").all()]
        assert titles == [f"{what}: {gib:.2f} GiB" for what, gib in held.items()]


@pytest.mark.parametrize("width", [380, 1280])
def test_a_visitor_plans_and_reads_what_python_says(browser, served, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors, start = [], time.monotonic()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: (
            request.url.startswith((served, "data:")) or errors.append(request.url)
        ),
    )
    page.goto(f"{served}/site/plan.html")
    page.locator(".plan-advice").wait_for()
    print(f"the planner was there after {time.monotonic() - start:.1f} s")
    same_as_in_python(
        page, planned(model="ResNet50", machine="4 x T4", hosts=1, batch=256)
    )

    page.get_by_label("model").first.select_option("GPT")
    page.get_by_label("machine").first.select_option("8 x H100")
    page.get_by_label("how many of them").fill("2")  # 1, 2, 4
    batch = page.get_by_label("examples in a global batch")
    batch.fill("512")
    page.get_by_label("examples of the whole run").fill("1000000")
    page.get_by_label("price of all of it").fill("100")
    batch.press("Tab")
    gpt = {
        "model": "GPT",
        "weights": 7,
        "machine": "8 x H100",
        "hosts": 4,
        "batch": 512,
    }
    same_as_in_python(page, planned(**gpt, examples=1_000_000, price=100))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=PICTURES / f"plan-{width}.png", full_page=True)

    batch.fill("0.5")
    batch.press("Tab")
    expect(page.locator(".plan-error")).to_contain_text(
        "batch=0.5: must be a whole number"
    )
    assert errors == []
    page.close()


def test_the_planner_in_05_works_on_the_site(browser, served):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{served}/notebooks/05_large_models.html")
    page.get_by_role("button", name="Start the planner").click()
    page.locator(".plan-advice").wait_for()
    fixed = {
        "model": "GPT",
        "machine": "my own machine",
        "devices": 8,
        "tflops": 500,
        "inside": 450,
    }
    same_as_in_python(
        page, planned(**fixed, weights=10, batch=512, hosts=8, memory=80, between=50)
    )
    page.get_by_label("billion weights").press("ArrowLeft")
    same_as_in_python(
        page, planned(**fixed, weights=7, batch=512, hosts=8, memory=80, between=50)
    )
    page.close()


def test_errors_fold_and_open_by_a_link_and_by_a_search(browser, served):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(f"{served}/notebooks/errors.html")
    errors = page.locator("details.error")
    assert errors.count() > 30 and page.locator("details.error[open]").count() == 0
    first = page.locator("section#it-hangs details.error").first
    expect(first.locator("pre").first).not_to_be_visible()
    first.locator("summary").click()
    expect(first.locator("pre").first).to_be_visible()
    page.goto(f"{served}/notebooks/06_your_own_model.html")
    page.goto(
        f"{served}/notebooks/errors.html#Training-starts-from-scratch-after-a-restore"
    )
    opened = page.locator("details.error[open]")
    expect(opened).to_have_count(1)
    expect(opened.locator("h3")).to_contain_text("Training starts from scratch")
    page.goto(f"{served}/search.html?q=incarnation")
    found = page.locator("#search-results li a", has_text="Errors you may meet").first
    found.click()
    expect(page.locator("details.error[open]").first).to_contain_text(
        "different incarnation"
    )
    page.close()


def test_the_site_is_travelled_and_searched(browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(
        (
            ROOT / "build" / "site" / "notebooks" / "00_data_vs_model_parallelism.html"
        ).as_uri()
    )
    answer = page.locator(".bd-article details").first
    answer.locator("summary").click()
    expect(answer.locator("p").last).to_be_visible()
    solution = page.locator("details.hide", has_text="Show the cell").last
    solution.locator("summary").click()
    expect(solution.locator("pre").first).to_be_visible()
    for host, address in (
        ("colab", "colab.research.google.com"),
        ("kaggle", "kaggle.com/kernels/welcome?src="),
    ):
        assert address in page.locator(f"#{host}-link").get_attribute("href")
    page.get_by_role("link", name="01 one device →").first.click()
    expect(page.locator(".bd-article h1")).to_contain_text("One device")
    page.locator(".bd-article").get_by_role(
        "link", name="strategy", exact=True
    ).first.click()
    expect(page.locator("#strategy")).to_be_in_viewport()
    page.goto((ROOT / "build" / "site" / "search.html").as_uri() + "?q=straggler")
    expect(page.locator("#search-results li").first).to_be_visible()
    page.close()
