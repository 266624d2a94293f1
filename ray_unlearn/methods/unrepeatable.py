"""Randomness in a script's text that no seed of a run reaches: a run that is made again has other bytes.

    draws_anew("rng = np.random.default_rng()")  # [(1, 'np.random.default_rng()')]

Torch's, NumPy's and Python's global generators are seeded before every run. A generator of a script's own is not, where
it begins without a seed, or with one of the clock, the process or the system.

Does not cover: the same in a package that the script imports, what the order of threads changes, and what is under
`if __name__ == "__main__":`, which is false in a run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

_UNSEEDED = {"default_rng", "RandomState", "SeedSequence", "PCG64", "MT19937", "Philox", "SFC64", "Random"}
"""Makers of generators that ask the system for a seed where they get none."""
_OF_PYTHON = ("Random", "random.Random")
"""How Python's generator is called; `Random` of other modules, and a class of the script's own, may be anything."""
_SEEDING = {"seed", "manual_seed", "manual_seed_all", "seed_everything", "set_seed", "PRNGKey", *_UNSEEDED}
"""Functions that take a seed."""
_CLOCKS = {
    *("time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "now", "utcnow", "today"),
    *("getpid", "getppid", "urandom", "getrandom", "token_bytes", "token_hex", "randbits", "uuid1", "uuid4"),
}
"""Functions whose value is another one in every process."""
_SYSTEMS = {"SystemRandom", "urandom", "getrandom", "token_bytes", "randbits"}
"""Functions that draw from the system."""
_GENERATORS = re.compile(r"(?i)(?:^|\.)(?:random|torch|cuda)$|generator|rng")
"""What `seed()` without a number is a function of."""


def draws_anew(source: str) -> list[tuple[int, str]]:
    """Return the lines of a text with such randomness, and the calls, in the order of the lines."""
    tree = _Imported().visit(ast.parse(source))
    clocks = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _reads_clock(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    loops = [node.target for node in ast.walk(tree) if isinstance(node, ast.For | ast.comprehension)]
    clocks -= {one.id for target in loops for one in ast.walk(target) if isinstance(one, ast.Name)}
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    calls = [call for call in _calls_in(tree) if _name_of(call) not in classes]
    found = {(call.lineno, ast.unparse(call)) for call in calls if _is_anew(call, clocks)}
    inside = {(line, text) for line, text in found if any(text != other and text in other for _, other in found)}
    return sorted(found - inside)


class _Imported(ast.NodeTransformer):
    """Leaves out what is under `if __name__ == "__main__":`."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Return an `if` as it is, or the `else` of one that only a main program enters."""
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) == "__name__ == '__main__'" else node


def _is_anew(call: ast.Call, clocks: Collection[str]) -> bool:
    name = _name_of(call)
    given = [each for each in (*call.args, *(one.value for one in call.keywords)) if not _is_none(each)]
    if name in _SEEDING and any(_reads_clock(each, clocks) for each in given):
        return True
    of_library = isinstance(call.func, ast.Attribute) and _GENERATORS.search(ast.unparse(call.func.value))
    makes = name in _UNSEEDED and (name != "Random" or ast.unparse(call.func) in _OF_PYTHON)
    return name in _SYSTEMS or (not given and (makes or (name == "seed" and bool(of_library))))


def _reads_clock(node: ast.expr, clocks: Collection[str]) -> bool:
    """Return whether a value comes from the clock, the process or the system; `clocks` are names of such values."""
    named = any(isinstance(one, ast.Name) and one.id in clocks for one in ast.walk(node))
    return named or any(_name_of(call) in _CLOCKS for call in _calls_in(node))


def _calls_in(node: ast.AST) -> list[ast.Call]:
    return [one for one in ast.walk(node) if isinstance(one, ast.Call)]


def _name_of(call: ast.Call) -> str:
    function = call.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
