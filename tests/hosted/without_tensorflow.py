"""Run notebook 04 as «Run all» does where TensorFlow is missing.

It is run to the end of its part on JAX, and started in notebooks/. A test runs it with
this environment's packages less TensorFlow; `make hosted` with those of Colab's
TPU runtime.
"""

import json
import linecache

from IPython.core.inputtransformer2 import TransformerManager

with open("04_tpu_strategy.ipynb", encoding="utf-8") as file:
    cells = [cell for cell in json.load(file)["cells"] if cell["cell_type"] == "code"]
space = {"__name__": "__main__"}
for cell in cells:
    source = TransformerManager().transform_cell("".join(cell["source"]))
    linecache.cache[cell["id"]] = (
        len(source),
        None,
        source.splitlines(keepends=True),
        cell["id"],
    )
    exec(compile(source, cell["id"], "exec"), space)
    if cell["id"] == "jax-trap":
        break
print("reached", cell["id"])
