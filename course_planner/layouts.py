"""What is wrong with a layout for `keras.distribution.ModelParallel`, before a training
shows it, or does not.
"""

import re

from course_utils.language import translated as _


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
                _("{pattern!r} matches no variable: begin it with .*", pattern=pattern)
                if part
                else _("{pattern!r} matches no variable", pattern=pattern)
            )
        found += [
            _("{pattern!r}: the mesh has no axis {axis!r}", pattern=pattern, axis=axis)
            for axis in axes
            if axis not in (None, *mesh)
        ]
        for path in paths:
            if path in rule_of:
                found.append(
                    _(
                        "{path}: {first!r} and {pattern!r} both match it",
                        path=path,
                        first=rule_of[path],
                        pattern=pattern,
                    )
                )
            rule_of.setdefault(path, pattern)
            if len(axes) != len(shapes[path]):
                found.append(
                    _(
                        "{pattern!r} has {count} axes, and {path} has "
                        "{dimensions} dimensions",
                        pattern=pattern,
                        count=len(axes),
                        path=path,
                        dimensions=len(shapes[path]),
                    )
                )
                continue
            for k, (size, axis) in enumerate(zip(shapes[path], axes, strict=True)):
                if axis in mesh and size % mesh[axis]:
                    found.append(
                        _(
                            "{pattern!r}: dimension {k} of {path} is {size}, which "
                            "{devices} does not divide",
                            pattern=pattern,
                            k=k,
                            path=path,
                            size=size,
                            devices=mesh[axis],
                        )
                    )
    return found
