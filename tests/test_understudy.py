"""torch._dynamo is not imported where nothing is compiled, and is there where something is."""

from __future__ import annotations

import subprocess
import sys

BEGIN = """if True:
    import sys
    import torch
    from ray_unlearn.understudy import spare_dynamo
    spare_dynamo()
    def loaded():
        return "torch._dynamo.utils" in sys.modules
    def train(kind):
        model = torch.nn.Linear(3, 3)
        optimizer = kind(model.parameters(), lr=0.1)
        before = model.weight.detach().clone()
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
        optimizer.state_dict()
        return not torch.equal(before, model.weight)
"""


def python(code: str) -> list[str]:
    """Run code after BEGIN in a fresh interpreter; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGIN + code], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_optimisers_step_without_dynamo():
    """Law: SGD, Adam and AdamW train, and the module that takes seconds to import is not loaded."""
    code = "    print(*(train(kind) for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)), loaded())"
    assert python(code) == ["True", "True", "True", "False"]


def test_whoever_compiles_gets_the_real_one():
    """Law: after steps without it, torch.compile and imports of its parts work, and optimisers go on."""
    code = """
    train(torch.optim.SGD)
    double = torch.compile(lambda x: 2 * x, backend="eager")
    print(double(torch.tensor(2.0)).item(), loaded(), train(torch.optim.Adam))
    import torch._dynamo.config
    from torch._dynamo import optimize
    print(sys.modules["torch._dynamo"] is torch._dynamo, callable(torch._dynamo.reset))
    print(hasattr(torch.optim.Optimizer.add_param_group.__wrapped__, "__dynamo_disable"))
    """
    assert python(code) == ["4.0", "True", "True", "True", "True", "True"]
