"""Count the layers of all of keras.applications, for the website's page that plans a
training: there is no Keras in a browser.

`python -m tools.model_costs` writes site/models.json.gz, whose bytes depend on the
counts alone; some minutes. tests/notebooks/test_site.py counts a few again,
`nox -s soak` all.
"""

import dataclasses
import gzip
import json
import pathlib

import keras

import course_planner as planner

STORED = pathlib.Path(__file__).resolve().parent.parent / "site" / "models.json.gz"
APPLICATIONS = sorted(name for name in vars(keras.applications) if name[0].isupper())


def counted(name: str) -> list[planner.LayerCost]:
    """Return the costs of the layers of a model of keras.applications, with the images
    that it was trained on.
    """
    keras.utils.clear_session()  # names of layers are counted from one
    model = getattr(keras.applications, name)(weights=None)
    shape = (224, 224, 3) if name.startswith("MobileNetV3") else None
    return planner.layer_costs(model, input_shape=shape)


def rows(layers: list[planner.LayerCost]) -> list[list]:
    """Return layers as lists of what `LayerCost` takes, in its order."""
    return [list(dataclasses.astuple(layer)) for layer in layers]


def main():
    models = {name: rows(counted(name)) for name in APPLICATIONS}
    text = json.dumps(models, separators=(",", ":"))
    STORED.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{STORED.name}: {len(models)} models, {STORED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
