"""Samples of phi for tests of epsilon and of scores: golden and seeded ones; and the benchmark, with the definition."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np


def recipe(name: str) -> ModuleType:
    """Import a script of tests/bench/."""
    path = Path(__file__).resolve().parent / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass looks for its types
    spec.loader.exec_module(module)
    return module


BENCHMARK = recipe("benchmark_evaluation")
"""Holds the official definition, attack by attack."""


def hundredths(text: str) -> np.ndarray:
    """Read numbers that are written in hundredths."""
    return np.array(text.split(","), float) / 100


# Four of the golden examples, N = 32: (epsilon, unlearned, retrained). To two digits their epsilons are the same.
GOLDEN = [
    (
        1.2527172565460205,
        "246,422,432,429,312,283,430,264,345,458,265,237,306,375,362,325,"
        "370,125,209,325,201,154,169,202,287,191,334,500,290,452,340,179",
        "222,367,346,192,222,547,259,245,351,256,456,345,329,372,398,90,"
        "275,161,403,346,349,256,321,349,275,229,255,285,166,164,294,201",
    ),
    (
        1.6093738079071045,
        "26,-197,-39,-136,-139,-238,188,-53,-12,80,-50,17,-180,-16,-80,16,"
        "-18,-183,-232,-144,40,8,5,-249,-320,-103,-72,-101,0,-55,-162,-130",
        "-43,-6,-3,90,-204,-157,16,-137,-56,-147,-222,32,45,4,-71,-54,"
        "-236,-144,-4,-136,-10,-131,-126,-125,-57,-106,-9,73,-147,-38,-6,-34",
    ),
    (
        3.33219313621521,
        "433,496,536,727,450,530,646,290,324,380,488,744,538,620,477,252,"
        "267,601,518,369,611,345,613,645,422,388,584,389,586,379,580,509",
        "168,280,187,255,177,53,52,164,252,237,199,103,50,176,325,262,"
        "226,217,219,163,251,186,71,177,49,53,161,362,-11,165,278,195",
    ),
    (
        50.0,
        "949,961,1067,879,1019,850,924,968,896,971,1008,872,951,930,820,943,"
        "900,1051,895,1076,919,1093,995,988,1013,1020,1055,1079,932,868,768,929",
        "402,391,386,422,430,457,313,335,399,333,404,229,414,535,362,416,"
        "648,389,390,423,424,340,423,363,521,488,403,467,365,372,360,298",
    ),
]  # fmt: skip


def gaussian(seed: int, num: int = 24, examples: int = 6, shift: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Return unlearned and retrained [num, examples]."""
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1.2, (num, examples)), rng.normal(0.0, 1.5, (num, examples))
