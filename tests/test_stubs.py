"""fastconv/_core.pyi names exactly what the compiled module has, with the same parameters."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import WrapperDescriptorType
from typing import Any

import fastconv
from fastconv import _core

STUB = Path(fastconv.__file__).with_name("_core.pyi")
# What every object or enumeration has.
IMPLIED = re.compile(
    r"__(doc|module|name|version|loader|spec|package|file|getstate|setstate|hash|eq|ne|str|repr|entries)(__)?|_pybind11.*"
)


def described() -> dict[str, Any]:
    """Dotted name -> parameter names of a function (of each overload), None for anything else."""
    names: dict[str, Any] = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                names[prefix + node.name] = None
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                decorators = [ast.unparse(d) for d in node.decorator_list]
                if "property" in decorators:
                    names[prefix + node.name] = None
                else:
                    a = node.args
                    parameters = [p.arg for p in [*a.posonlyargs, *a.args, *a.kwonlyargs]]
                    names.setdefault(prefix + node.name, []).append([p for p in parameters if p != "self"])
            elif isinstance(node, ast.AnnAssign):
                names[prefix + ast.unparse(node.target)] = None

    walk(ast.parse(STUB.read_text()).body, "")
    return {k: v for k, v in names.items() if k != "__all__" and not IMPLIED.fullmatch(k.rpartition(".")[2])}


def parameters(function: Any) -> list[list[str]]:
    """Parameter names of each overload, from the signatures that pybind11 writes into docstrings."""
    name = re.escape(function.__name__)
    found = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> .*$", function.__doc__, re.MULTILINE)
    found = [f for f in found if f != "*args, **kwargs" or "Overloaded function" not in function.__doc__]
    while any("[" in f for f in found):
        found = [re.sub(r"\[[^\[\]]*\]", "", f) for f in found]
    split = [[p.split(":")[0].strip() for p in f.split(",")] for f in found]
    return [[p for p in names if p and p not in ("self", "/") and p[0] != "*"] for names in split]


def found() -> Iterator[tuple[str, Any]]:
    """The same of the module itself."""
    for name, value in vars(_core).items():
        if IMPLIED.fullmatch(name):
            continue
        if isinstance(value, type):
            yield name, None
            for inner, member in vars(value).items():
                if IMPLIED.fullmatch(inner) or isinstance(member, WrapperDescriptorType):
                    continue
                if isinstance(member, staticmethod):
                    member = member.__func__
                is_function = callable(member) and not isinstance(member, (type, value))
                yield f"{name}.{inner}", parameters(member) if is_function else None
        else:
            yield name, parameters(value) if callable(value) else None


def test_stub_is_the_module() -> None:
    """If this fails after a change of the bindings: make stubs."""
    want, got = dict(found()), described()
    assert sorted(got) == sorted(want)
    different = {k: (got[k], want[k]) for k in want if got[k] != want[k]}
    assert not different


def test_all() -> None:
    (names,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "__all__" and node.value is not None
    ]
    assert sorted(names) == sorted(n for n in vars(_core) if not n.startswith("_"))
