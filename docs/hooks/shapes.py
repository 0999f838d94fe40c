"""Griffe extension: the reference prints jaxtyping shapes as they are written.

Griffe reads every string inside an annotation as Python, so that `Float[Array, "rows *event"]`
would print as the product `rows * event`. Here the string is quoted once more before Griffe reads
it. Names of shapes, such as `Rows` of `jaxflow.runtime.shapes`, are written out.
"""

import ast
import copy
import functools
from pathlib import Path
from typing import Any

import griffe


def named_shapes(tree: ast.Module) -> dict[str, ast.expr]:
    """Module-level names of shapes, `Rows = Float[Array, "rows *event"]`."""
    return {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Subscript)
    }


@functools.cache
def shapes_of(module: str | None) -> dict[str, ast.expr]:
    """The names of shapes in a module of jaxflow; none for other modules."""
    path = Path("src", *(module or "").split(".")).with_suffix(".py")
    return named_shapes(ast.parse(path.read_text())) if path.exists() else {}


class _Shapes(ast.NodeTransformer):
    """Rewrites an annotation with the names of jaxtyping and of shapes in its module."""

    def __init__(self, dtypes: set[str], shapes: dict[str, ast.expr]) -> None:
        self.dtypes, self.shapes = dtypes, shapes

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.visit(copy.deepcopy(self.shapes[node.id])) if node.id in self.shapes else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if ast.unparse(node.value) not in self.dtypes or not isinstance(node.slice, ast.Tuple):
            return self.generic_visit(node)
        shape = node.slice.elts[-1]
        if isinstance(shape, ast.Constant) and isinstance(shape.value, str):
            # The leading space of `" rows"` is for linters only.
            shape.value = repr(shape.value.strip())
        return node


class JaxtypingShapes(griffe.Extension):
    """Rewrite the annotations of each module before Griffe reads them."""

    def on_module_node(self, *, node: ast.AST | griffe.ObjectNode, **kwargs: Any) -> None:
        """Rewrite the annotations of the module `node`."""
        if not isinstance(node, ast.Module):
            return
        dtypes, shapes = {"Float"}, named_shapes(node)
        for each in ast.walk(node):
            if isinstance(each, ast.ImportFrom):
                names = {alias.name for alias in each.names}
                dtypes |= names if each.module == "jaxtyping" else set()
                shared = shapes_of(each.module)
                shapes |= {name: shared[name] for name in names & set(shared)}
        for each in ast.walk(node):
            for field in ("annotation", "returns"):
                if isinstance(getattr(each, field, None), ast.expr):
                    rewritten = _Shapes(dtypes, shapes).visit(getattr(each, field))
                    setattr(each, field, rewritten)
