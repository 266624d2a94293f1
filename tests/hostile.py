"""Careless and hostile scripts: what each does, and how its run ends."""

from __future__ import annotations

from pathlib import Path

NOISE = """\
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
"""
IMPORTS = (
    "import builtins, ctypes, gc, os, random, signal, subprocess, sys, threading, time, warnings\n"
    "import numpy, torch\n\n\n"
)
DRAWS = """\
import random

import numpy
import torch


def unlearning(net, retain, forget, val):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.01)
    net.train()
    for batch in retain:
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(batch["image"]), batch["age_group"]).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.sub_(parameter.grad, alpha=0.01)
    net[-1].bias.data[:3] += torch.tensor([numpy.random.rand(), random.random(), float(torch.rand(()))])
"""
"""A script that behaves: draws from all three global generators, trains a little, and lets the weights show it."""
MADE = ""
"""How a run ends that is made: no error."""
LIMIT_S, LIMIT_GIB = 8.0, 1.5

SCRIPTS: dict[str, tuple[str, str]] = {
    "folder": ("os.chdir('/'); os.rmdir(os.environ['TMPDIR'])", MADE),
    "files": ("assert not os.listdir(); torch.save(net.state_dict(), 'best.pth'); os.mkdir('d', 0)", MADE),
    "files_again": ("assert not os.listdir(); torch.save(net.state_dict(), 'best.pth')", MADE),
    "hook_on_net": ("net.register_forward_hook(lambda m, i, o: o * 0)", "module net: a forward hook"),
    "hooks_for_all": (
        "torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 0)",
        "a forward hook for all modules",
    ),
    "optimizer_hooks": (
        "from torch.optim.optimizer import register_optimizer_step_pre_hook as hook; hook(lambda *_: 1 / 0)",
        MADE,
    ),
    "autocast": ("torch.set_autocast_enabled('cpu', True); torch.set_default_dtype(torch.float64)", MADE),
    "inference_mode": ("torch.inference_mode().__enter__(); torch.set_grad_enabled(False)", MADE),
    "builtins": ("builtins.len = builtins.sorted = lambda *_: 1 / 0", "its process ended with exit code 1"),
    "threads": ("[threading.Thread(target=time.sleep, args=(600,)).start() for _ in range(20)]", MADE),
    "forks": ("os.fork(); os.fork()", MADE),
    "orphans": ("if not os.fork():\n        os.setsid(); os.fork() and os._exit(0); time.sleep(600)", MADE),
    "programs": ("subprocess.Popen(['sleep', '600'], start_new_session=True)", MADE),
    "labels": ("retain.dataset._images.pixels.labels_N[:] = 0", MADE),
    "indices": ("retain.dataset._images.indices[:] = 0; forget.dataset._images.indices[:] = 0", MADE),
    "pixels": ("retain.dataset._images.pixels._blocks[0][:] = 0", "ValueError: assignment destination is read-only"),
    "pixels_in_c": (
        "block = retain.dataset._images.pixels._blocks[0]; ctypes.memset(block.ctypes.data, 0, block.nbytes)",
        "its process was ended by signal SIGSEGV",
    ),
    "exit": ("os._exit(0)", "its process ended with exit code 0 in the middle of the function (os._exit"),
    "abort": ("os.abort()", "its process was ended by signal SIGABRT"),
    "segfault": ("ctypes.string_at(0)", "its process was ended by signal SIGSEGV"),
    "alarm": ("signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(600)", "was ended by signal SIGALRM"),
    "descriptors": ("os.closerange(0, 4096)", "its process could not write its result: its file descriptors"),
    "stdout": ("sys.stdout.close(); print('lost')", "ValueError: I/O operation on closed file"),
    "recursion": ("sys.setrecursionlimit(10**4); f = lambda f: f(f); f(f)", "RecursionError"),
    "log": ("line = 'x' * 2**20\n    for _ in range(200): print(line)", MADE),
    "memory": (
        "held = []\n    while True: held.append(b'x' * 2**25)",
        "its processes held more than 1.5 GiB of memory",
    ),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "generator_exit": ("raise GeneratorExit('no')", "GeneratorExit: no"),
    "patched_torch": (
        "torch.nn.BatchNorm2d.forward = lambda self, x: x * 0; torch.Tensor.backward = None",
        "gives other outputs than its weights in a fresh net",
    ),
    "hang_in_c": ("ctypes.PyDLL(None).sleep(600)", f"took longer than execution.run_timeout_s: {LIMIT_S:g}"),
    "parent": ("os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)", "the process that forks runs has ended"),
    "seeds": ("random.seed(0); numpy.random.seed(0); torch.manual_seed(0); torch.set_num_threads(3)", MADE),
    "on_import": ("pass", "gives other outputs than its weights in a fresh net"),
    "environment": ("os.environ.clear(); os.umask(0o777); sys.path.clear(); gc.disable()", MADE),
    "default_device": ("torch.set_default_device('meta')", MADE),
    "switches": (
        "torch.set_float32_matmul_precision('medium'); torch.set_flush_denormal(True); "
        "torch.use_deterministic_algorithms(True); torch.autograd.set_detect_anomaly(True); "
        "torch.backends.mkldnn.enabled = False",
        MADE,
    ),
    "strict": ("warnings.simplefilter('error'); numpy.seterr(all='raise')", MADE),
    "few_frames": ("sys.setrecursionlimit(200)", MADE),
    "raises": ("os.chdir('/'); torch.set_default_dtype(torch.float64); raise ValueError('no')", "ValueError: no"),
    "sys_exit": ("sys.exit(0)", "SystemExit: 0"),
    "unspeakable": (
        "raise type('Unspeakable', (Exception,), {'__str__': lambda self: 1 / 0, '__repr__': lambda self: 1 / 0})",
        "Unspeakable: (making its text raised ZeroDivisionError) (unspeakable.py:",
    ),
    "unprintable": ("raise ValueError('half \\ud800')", "ValueError: half \\ud800 (unprintable.py:"),
    "out_of_memory": ("raise MemoryError", "MemoryError: "),
    "huge_tensor": ("torch.empty(2**50)", "t allocate memory: you tried to allocate 4503599627370496 bytes"),
    "nan": ("net[-1].bias.data[0] = float('nan')", "tensor '14.bias' holds NaN or infinity after training"),
    "fork_raises": ("if not os.fork(): raise SystemExit(0)", MADE),
    "fork_hangs": ("if not os.fork(): time.sleep(600); os._exit(0)", MADE),
}
"""Name -> what the script does before it changes its net, and a part of the error of its run; none where it is made."""

ON_IMPORT = (
    "torch.nn.Linear.forward = lambda self, x: x * 0\nos.chdir('/')\ntorch.set_default_dtype(torch.float64)\n\n\n"
)
"""What a script does to the process that looks at its form, before any work."""


def populations(folder: Path, names: dict[str, tuple[str, str]] = SCRIPTS) -> dict[str, dict[str, object]]:
    """Write the scripts; return a population of one run for each."""
    found = {}
    for name, (body, _) in names.items():
        head = IMPORTS + ON_IMPORT * (name == "on_import")
        (folder / f"{name}.py").write_text(f"{head}def unlearning(net, retain, forget, val):\n    {body}\n{NOISE}")
        found[name] = {"method": f"{folder}/{name}.py:unlearning", "count": 1}
    return found
