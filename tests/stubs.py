"""Write fastconv/_core.pyi from the compiled module: `python -m tests.stubs` (make stubs). Needs pybind11-stubgen.

pybind11-stubgen knows the functions; the fields of descriptors, whose accessors take any object, get their types from
a default-constructed one. What pybind11 repeats in every enumeration is shortened.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from pathlib import Path

from fastconv import _core

OUT = Path(__file__).parents[1] / "fastconv" / "_core.pyi"
HEADER = "# Made by `make stubs` from the compiled module.\n"
NARROWER = {
    "typing.SupportsInt | typing.SupportsIndex": "int",
    "typing.SupportsFloat | typing.SupportsIndex": "float",
    "typing.Annotated[numpy.typing.ArrayLike, numpy.float32]": "numpy.typing.NDArray[numpy.float32]",
    "numpy.ndarray": "numpy.typing.NDArray[typing.Any]",
    "dict": "dict[str, typing.Any]",
    "os.PathLike": "os.PathLike[str]",
    "tuple": "tuple[int, ...]",
}
ENUM_METHODS = frozenset(("__init__", "__int__", "__index__", "name", "value"))


class Cleaner(ast.NodeTransformer):
    """Narrower types, without FixedSize annotations."""

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.expr):
            text = ast.unparse(node)
            if text in NARROWER:
                return ast.parse(NARROWER[text], mode="eval").body
            if isinstance(node, ast.Subscript) and text.startswith("typing.Annotated[") and "FixedSize" in text:
                assert isinstance(node.slice, ast.Tuple)
                return self.visit(node.slice.elts[0])
            if isinstance(node, ast.Subscript):  # `tuple` in tuple[int, int] stays
                node.slice = self.visit(node.slice)  # type: ignore[assignment]
                return node
        return self.generic_visit(node)


def field_type(value: object) -> str:
    """What the attribute of a descriptor holds; sequences may be set from any sequence."""
    if isinstance(value, tuple):
        return "collections.abc.Sequence[int]"
    return type(value).__name__


def tidy_docstrings(tree: ast.Module) -> None:
    """On one line where they fit; once for the overloads of a function."""
    before = None
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) or ast.get_docstring(node) is None:
            continue
        doc = node.body[0]
        if isinstance(node, ast.FunctionDef):
            if node.name == before:
                node.body = [ast.Expr(ast.Constant(...))]
                continue
            before = node.name
        assert isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
        doc.value.value = ast.get_docstring(node)


def clean_class(node: ast.ClassDef) -> None:
    cls = getattr(_core, node.name)
    is_enum = hasattr(cls, "__members__")
    body: list[ast.stmt] = []
    for item in node.body:
        if is_enum and isinstance(item, ast.Expr):
            continue  # the docstring lists the members again
        if is_enum and isinstance(item, ast.FunctionDef) and item.name not in ENUM_METHODS:
            continue  # object has the others
        if isinstance(item, ast.FunctionDef) and item.name == "__repr__":
            continue
        if isinstance(item, ast.FunctionDef) and item.args.kwarg is not None:
            item.args.kwarg.annotation = ast.parse("typing.Any", mode="eval").body
        if isinstance(item, ast.AnnAssign) and ast.unparse(item.annotation) == "typing.Any":
            assert isinstance(item.target, ast.Name)
            item.annotation = ast.parse(field_type(getattr(cls(), item.target.id)), mode="eval").body
        body.append(item)
    node.body = body


def generate() -> str:
    """The stub as text, imports sorted and formatted by ruff. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", "fastconv._core", "-o", folder]
        subprocess.run([*command, "--exit-code"], check=True, capture_output=True, text=True)
        tree = ast.parse(Path(folder, "fastconv", "_core.pyi").read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            clean_class(node)
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "__version__":
            node.value = None
    tidy_docstrings(tree)
    text = HEADER + ast.unparse(Cleaner().visit(tree))
    for ruff in (["check", "--select=I,RUF022", "--fix", "--quiet"], ["format"]):
        command = [sys.executable, "-m", "ruff", *ruff, "--stdin-filename", str(OUT), "-"]
        text = subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout
    return text


def main() -> int:
    try:
        text = generate()
    except subprocess.CalledProcessError as e:
        print(e.stderr, file=sys.stderr)
        return 1
    OUT.write_text(text)
    print(f"wrote {OUT} ({len(text.splitlines())} lines)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
