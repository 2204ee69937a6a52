"""What reads the notebooks from outside, run short on what is there.

These are the benchmark, the GPU report, the rehearsals, MNIST and the site. A cell or a
name that one of them looks for can be renamed in a notebook, and the notebook's own
test stays green.
"""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)


def program(path):
    """The module of a file that is run as a program, from the root of the course."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(notebook, name):
    cells = json.loads(
        (ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8")
    )["cells"]
    return next(cell for cell in cells if cell["id"] == name)


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform == "win32", reason="worker processes need Linux or macOS"
)
def test_the_benchmark(capfd):
    from benchmarks import workers

    workers.main(["--short"])
    said = capfd.readouterr().out
    rows = [
        "nothing: the limit",
        "section 2's loop",
        "four steps a call",
        "four a call, float16",
        "fit",
    ]
    assert [name for name in rows if f"\n{name} " not in said] == [] and "128\n" in said


@pytest.mark.slow
def test_the_measurements_on_a_gpu():
    gpu = program(ROOT / "benchmarks" / "gpu.py")
    on_jax = {"KERAS_BACKEND": "jax"} | gpu.CPU
    alone, data = (
        gpu.by_itself("notebook_04", way, **on_jax, **gpu.FULL)
        for way in ("alone", "data")
    )
    assert alone.get("error") == data.get("error") is None and alone[
        "loss"
    ] == pytest.approx(data["loss"], rel=1e-4)
    found = gpu.by_itself("epochs", "cnn", 2, "float32", 1, **on_jax)
    assert (
        found.get("error") is None and len(found["rates"]) == 3 and found["planned"] > 0
    )


def test_what_is_published_for_the_rehearsals(tmp_path):
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("no clone: nothing to publish")
    rehearse = program(ROOT / "tests" / "hosted" / "rehearse.py")
    rehearse.published(tmp_path)
    assert "github.com/somebody/course@main" in rehearse.set_up_cell(tmp_path)
    log = subprocess.check_output(
        ["git", "-C", str(tmp_path), "log", "--oneline"], text=True
    )
    assert (
        log.endswith(" course\n")
        and (tmp_path / "notebooks" / NOTEBOOKS[0].name).is_file()
    )


@pytest.mark.parametrize(
    "page", NOTEBOOKS[:-1], ids=lambda page: page.stem
)  # 06 has the reader's data
def test_set_to_mnist_and_cut_after_its_first_proof(page):
    mnist = program(ROOT / "tests" / "notebooks" / "mnist.py")
    whole, short = (
        json.loads(mnist.on_mnist(page, only))["cells"] for only in (False, True)
    )
    assert 5 < len(short) < len(whole)
    assert any('DATASET = "mnist"' in "".join(cell["source"]) for cell in short)


@each_notebook
def test_the_site_folds_set_up_cells_and_names_figures(page):
    conf = program(ROOT / "site" / "conf.py")
    source = [page.read_text(encoding="utf-8")]
    conf.prepare(None, f"notebooks/{page.stem}", source)
    cells = json.loads(source[0])["cells"]
    folded = [
        cell["id"] for cell in cells if "hide-input" in cell["metadata"].get("tags", [])
    ]
    assert "set-up" in folded
    figures = [
        output
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    named = [cell for cell in cells if "mystnb" in cell["metadata"]]
    assert bool(figures) == bool(named)


def test_the_site_has_every_page_that_a_page_links_to():
    conf = program(ROOT / "site" / "conf.py")
    pages = {path for pattern in conf.include_patterns for path in ROOT.glob(pattern)}
    missing = []
    for page in pages:
        source = [page.read_text(encoding="utf-8")]
        conf.prepare(None, page.relative_to(ROOT).with_suffix("").as_posix(), source)
        for link in re.findall(r"\]\((?!https?:)([\w./-]+\.\w+)", source[0]):
            if (
                not link.endswith(".png")
                and (page.parent / link).resolve() not in pages
            ):
                missing.append((page.name, link))
    assert len(pages) > 15 and missing == []


def test_what_06_keeps_beside_the_backup(tmp_path):
    """The best comes before the cut.

    A run that goes on neither overwrites it, nor stops later.
    """
    import keras

    space = {"keras": keras}
    for name in "kept-of", "kept":
        exec("".join(cell("06_your_own_model", name)["source"]), space)
    x, y = np.linspace(-1, 1, 32)[:, None], np.linspace(-2, 2, 32)[:, None]

    class Cut(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    def run(name, *more):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(3.2), "mse")  # so large that the loss grows
        others = [
            keras.callbacks.BackupAndRestore(tmp_path / name),
            keras.callbacks.EarlyStopping("loss", patience=3),
            keras.callbacks.ModelCheckpoint(
                tmp_path / f"{name}.keras", "loss", save_best_only=True
            ),
        ]
        kept = space["Kept"](str(tmp_path / f"{name}.json"), others)
        try:
            epochs = model.fit(
                x,
                y,
                epochs=9,
                batch_size=32,
                verbose=0,
                callbacks=[*others, kept, *more],
            ).epoch
        except InterruptedError:
            return None
        best = keras.saving.load_model(tmp_path / f"{name}.keras").get_weights()
        return epochs[-1], [weight.tolist() for weight in best]

    undisturbed = run("undisturbed")
    assert undisturbed[0] == 3 and run("cut", Cut()) is None
    assert run("cut") == undisturbed


@pytest.mark.skipif(
    sys.platform == "win32", reason="worker processes need Linux or macOS"
)
@pytest.mark.parametrize("package", ["course_planner", "course_launcher"])
def test_the_example_of_a_packages_readme_runs(package):
    (code,) = re.findall(
        r"```python\n(.*?)```",
        (ROOT / package / "README.md").read_text(encoding="utf-8"),
        re.S,
    )
    exec(code, {"__name__": "__main__"})


TAKEN = {  # notebook, cell: what a reader writes before and after it, what is printed
    ("00_data_vs_model_parallelism", "sources"): (
        "import numpy as np\n",
        "images, labels = np.zeros((20, 28, 28, 1), 'float32'), np.zeros(20, 'int64')\n"
        "dataset = make_dataset(images, labels, 8)\n"
        "print(len(dataset), build_model(seed=1)(next(iter(dataset))[0]).shape)\n",
        "2 (8, 10)",
    ),
    ("01_one_device_strategy", "train-step"): (
        "import keras, tensorflow as tf\nGLOBAL_BATCH_SIZE = 4\n",
        "strategy = tf.distribute.OneDeviceStrategy('CPU:0')\n"
        "with strategy.scope():\n"
        "    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])\n"
        "    optimizer = keras.optimizers.SGD()\n"
        "step = make_train_step(strategy, model, optimizer)\n"
        "print(step(tf.ones([4, 3]), tf.zeros([4], tf.int64)).shape)\n",
        "()",
    ),
    ("06_your_own_model", "your-model"): ("", "print(build().compiled)\n", "True"),
    ("06_your_own_model", "your-data"): (
        "",
        "training, validation = dataset(8)\n"
        "print(*(part.element_spec[0].shape for part in (training, validation)))\n",
        "(None, 8, 8, 1) (None, 8, 8, 1)",
    ),
}


def test_these_cells_say_take_this():
    tagged = {
        (page.stem, cell["id"])
        for page in NOTEBOOKS
        for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]
        if "take-this" in cell["metadata"].get("tags", [])
    }
    assert tagged == {*TAKEN}


@pytest.mark.parametrize("place", TAKEN, ids=lambda place: place[1])
def test_what_is_to_be_taken_runs_in_an_empty_file(tmp_path, place):
    before, after, printed = TAKEN[place]
    taken = cell(*place)
    text = "".join(taken["source"])
    if taken["id"] == "sources":  # what it prints is to be taken
        text = "".join(taken["outputs"][0]["text"])
    program = "\n".join([before, text, after])
    (tmp_path / "taken.py").write_text(program, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "taken.py"]
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.stdout.strip() == printed, ran.stderr[-2000:]
