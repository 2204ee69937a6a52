"""The notebook's functions as a program of their own: a cluster runs the code of the cells, not a second copy."""

import builtins
import dis
import inspect
import pathlib
import textwrap
import types

HEAD = '''"""Written by the notebook from its own cells (course_utils.cluster.write_script): change them there."""

'''
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def write_script(path: str, *functions, main) -> None:
    """Write functions of the notebook, by their source, into a Python file that runs `main()` when it is run.

    path: of the file; an older one is replaced. functions: those that `main` needs, in the order in which to write
    them. main: a function that takes no arguments.

    What the functions refer to comes along: imports of modules, and of what is imported from modules, and plain
    constants (numbers, strings, and tuples, lists and dicts of them) by value. Raises ValueError for another kind of
    object, for a function of the notebook that is not named here, for a name that does not exist, and when there is no
    source (a function typed into no cell and no file).
    """
    functions = [inspect.unwrap(each) for each in (*functions, main)]
    for each in functions:
        if not inspect.isfunction(each) or each.__name__ == "<lambda>":
            raise ValueError(f"functions: {each!r} is no function with a name, defined by def")
    if inspect.signature(functions[-1]).parameters:
        raise ValueError(f"main={main.__name__}: must take no arguments; write a function that calls it with its own")
    sources = [_source(each) for each in functions]
    imports, constants = {}, {}
    written = {each.__name__ for each in functions}
    for function, source in zip(functions, sources, strict=True):
        for name in _names(source) - written:
            value = function.__globals__.get(name, builtins)
            if value is builtins:
                raise ValueError(
                    f"{function.__name__} uses {name}, which does not exist here: run the cell that makes it"
                )
            if line := _import(name, value):
                imports[name] = line
            elif _plain(value):
                constants[name] = f"{name} = {value!r}"
            else:
                kind = "a function of the notebook: name it, too" if inspect.isroutine(value) else "no constant"
                raise ValueError(f"{function.__name__} uses {name}, which is {kind} ({type(value).__name__})")
    lines = sorted(imports.values(), key=lambda line: (not line.split()[1].startswith("course_utils"), line))
    parts = ["\n".join(lines), "\n".join(constants[name] for name in sorted(constants)), *sources]
    call = f'if __name__ == "__main__":\n    {functions[-1].__name__}()\n'
    text = HEAD + "\n\n\n".join([part.strip("\n") for part in parts if part] + [call])
    pathlib.Path(path).write_text(text, encoding="utf-8")


def _source(function):
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise ValueError(
            f"functions: the source of {function.__name__} is not to be had: define it in a cell"
        ) from None


def _names(source):
    """The names that this piece of a module takes from outside."""
    todo, used = [compile(source, "<cells>", "exec", dont_inherit=True)], set()
    while todo:
        code = todo.pop()
        todo += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        own = {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_NAME"}
        reads = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
        used |= {name for name in reads - own if not hasattr(builtins, name) and not name.startswith("__")}
    return used


def _import(name, value):
    """The line that imports this value under this name; None if no line does."""
    if inspect.ismodule(value):
        package, _, own = value.__name__.rpartition(".")
        line = f"from {package} import {own}" if package else f"import {own}"
        return line + ("" if own == name else f" as {name}")
    module, own = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or module == "__main__" or not isinstance(own, str) or "." in own:
        return None
    return f"from {module} import {own}" + ("" if own == name else f" as {name}")


def _plain(value):
    if isinstance(value, dict):
        return all(_plain(each) for pair in value.items() for each in pair)
    return isinstance(value, PLAIN) or (type(value) in (tuple, list, set) and all(map(_plain, value)))
