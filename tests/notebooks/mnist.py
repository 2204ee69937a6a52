"""Run every notebook with `DATASET = "mnist"` on a stand-in for MNIST.

usage: python -m tests.notebooks.mnist [--data] [NN ...] [fr/NN ...]
       all notebooks in both languages, or those with these numbers; half an hour
       --data: only up to each one's first proof that is made with the data; some
       three minutes (in CI)

Real MNIST cannot be had without a network. The stand-in, which has its shape, size and
file, are scikit-learn's digits, enlarged, and shifted by up to two pixels to make
60,000 and 10,000 of them. Proofs judge; stored outputs, which are the small set's, do
not.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from course_utils.data import load_digits
from tools.cells import in_both_languages

ROOT = pathlib.Path(__file__).resolve().parents[2]

# the tag of a notebook's first cell that proves something of a training
FIRST_PROOF = "first-proof"
ACCEPTED = """
import importlib.abc, importlib.machinery, sys

class Accept(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "keras.src.utils.file_utils":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def accepting(module):
            load(module)
            # the stand-in's hash is not MNIST's
            module.validate_file = lambda *_, **__: True
        spec.loader.exec_module = accepting
        return spec

sys.meta_path.insert(0, Accept())
"""


def many(images, labels, count):
    """`count` images and labels as MNIST's file has them, from fewer."""
    numbers = np.random.default_rng(0)
    picked = np.resize(np.arange(len(images)), count)
    shifts = numbers.integers(-2, 3, (count, 2))
    pixels = (255 * images[..., 0]).astype("uint8")
    return np.stack(
        [
            np.roll(pixels[i], shift, (0, 1))
            for i, shift in zip(picked, shifts, strict=True)
        ]
    ), labels[picked]


def stand_in(path):
    """Write the file that Keras would download."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {
        name: many(*part, count)
        for (name, count), part in zip(
            {"train": 60_000, "test": 10_000}.items(), load_digits(), strict=True
        )
    }
    arrays = {
        f"{axis}_{name}": array
        for name, pair in parts.items()
        for axis, array in zip("xy", pair, strict=True)
    }
    np.savez(path, **arrays)


def on_mnist(path, data_only):
    """The notebook as JSON text, set to MNIST."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    assert sum(source.count('DATASET = "digits"') for source in sources) == 1, path.name
    for cell, source in zip(notebook["cells"], sources, strict=True):
        cell["source"] = source.replace('DATASET = "digits"', 'DATASET = "mnist"')
    if data_only:
        last = [
            FIRST_PROOF in cell["metadata"].get("tags", [])
            for cell in notebook["cells"]
        ].index(True)
        del notebook["cells"][last + 1 :]
    return json.dumps(notebook)


def main(words):
    data_only, names = "--data" in words, [word for word in words if word != "--data"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        stand_in(folder / "keras" / "datasets" / "mnist.npz")
        (folder / "notebooks").mkdir()
        for path, short in in_both_languages():
            # 06 has the reader's data
            own_data = "DATASET = " not in path.read_text(encoding="utf-8")
            if not own_data and (not names or short in names):
                place = folder / "notebooks" / f"{short.replace('/', '-')}.ipynb"
                place.write_text(on_mnist(path, data_only), encoding="utf-8")
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(ACCEPTED)
        env = os.environ | {
            "KERAS_HOME": str(folder / "keras"),
            "PYTHONPATH": str(folder / "site"),
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            os.devnull,
            f"--rootdir={folder}",
            "--nbval-lax",
        ]
        command += [
            "--nbval-current-env",
            "--nbval-cell-timeout=900",
            "--numprocesses=2",
            "--dist=loadfile",
        ]
        return subprocess.run(
            [*command, "-W", "ignore", str(folder / "notebooks")], env=env, cwd=folder
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
