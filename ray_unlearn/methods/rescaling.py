"""Places in a script's text that scale images: the study has scaled them already.

    rescales("x = batch['image'] / 255")         # [(1, "batch['image'] / 255")]

Does not cover: scaling by a name (`x / scale`), and the same in a net, which is measured (`models.scaling`).
"""

from __future__ import annotations

import ast


def rescales(source: str) -> list[tuple[int, str]]:
    """Return the lines of a text that divide by 255, or normalise by mean and standard deviation, and what they do."""
    tree = ast.parse(source)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.AugAssign | ast.BinOp | ast.Call)]
    return sorted({(node.lineno, ast.unparse(node)) for node in nodes if _divides(node) or _normalises(node)})


def _divides(node: ast.AST) -> bool:
    """Return whether something that is no number is divided by 255."""
    if isinstance(node, ast.AugAssign):
        return isinstance(node.op, ast.Div) and _is_255(node.value)
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Div):
        return False
    return _is_255(node.right) and not isinstance(node.left, ast.Constant)


def _normalises(node: ast.AST) -> bool:
    """Return whether a call is of a transform that takes a mean and a standard deviation."""
    if not isinstance(node, ast.Call) or len(node.args) + len(node.keywords) < 2:
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = {one.arg for one in node.keywords}
    return name == "Normalize" or (name == "normalize" and {"mean", "std"} <= given)


def _is_255(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 255
