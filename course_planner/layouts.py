"""What is wrong with a layout for `keras.distribution.ModelParallel`, before a training
shows it, or does not.
"""

import re


def check_layout(
    rules: dict, mesh: dict[str, int], shapes: dict[str, tuple]
) -> list[str]:
    """Return a sentence for each thing that is wrong; an empty list if all is well.

    rules: `{pattern of paths: axes}`, as for `keras.distribution.LayoutMap`; axes has
        the name of an axis of the mesh, or None, for each dimension of the variable.
    mesh: `{axis: devices along it}`. shapes: `{path: shape}` of the model's variables.

    Of a pattern that matches nothing Keras says nothing: its variables stay whole, and
    no memory is saved. A pattern must match a whole path here, as in Keras 3.15; in
    3.13 a part of it is enough.
    """
    found, rule_of = [], {}
    for pattern, axes in rules.items():
        paths = [path for path in shapes if re.fullmatch(pattern, path)]
        if not paths:
            part = any(re.search(pattern, path) for path in shapes)
            found.append(
                f"{pattern!r} matches no variable" + ": begin it with .*" * part
            )
        found += [
            f"{pattern!r}: the mesh has no axis {axis!r}"
            for axis in axes
            if axis not in (None, *mesh)
        ]
        for path in paths:
            if path in rule_of:
                found.append(f"{path}: {rule_of[path]!r} and {pattern!r} both match it")
            rule_of.setdefault(path, pattern)
            if len(axes) != len(shapes[path]):
                found.append(
                    f"{pattern!r} has {len(axes)} axes, and {path} has "
                    f"{len(shapes[path])} dimensions"
                )
                continue
            for k, (size, axis) in enumerate(zip(shapes[path], axes, strict=True)):
                if axis in mesh and size % mesh[axis]:
                    found.append(
                        f"{pattern!r}: dimension {k} of {path} is {size}, which "
                        f"{mesh[axis]} does not divide"
                    )
    return found
