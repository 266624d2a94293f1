"""Signals become `Interrupted`, wherever they strike."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ray_unlearn.errors import Interrupted
from ray_unlearn.interrupts import _PIPES, RESUMABLE, ends_within, interrupts


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_an_exception_with_its_exit_code(number: signal.Signals, code: int):
    """Law: 128 + the signal's number; handlers are as before after the block."""
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, interrupts():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_a_signal_inside_compiled_code_is_an_interrupt_all_the_same():
    """Law: ray.wait makes a SystemError of what a handler raises inside it; people get the interrupt all the same."""
    with pytest.raises(Interrupted), interrupts():
        raise SystemError("returned a result with an exception set") from Interrupted(signal.SIGTERM)


def test_a_system_error_of_its_own_is_not_an_interrupt():
    """Law: only an interrupt is an interrupt."""
    with pytest.raises(SystemError, match="broken"), interrupts():
        raise SystemError("broken")


def test_an_interrupt_that_a_finaliser_swallows_is_raised_again():
    """Law: Python ignores what is raised in a finaliser; the interrupt comes again a moment later, and reports
    nothing.
    """

    class Struck:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(100):
                pass  # a handler runs between two of these

    hook = sys.unraisablehook
    begun = time.monotonic()
    with pytest.raises(Interrupted), interrupts():  # noqa: PT012 - what follows the interrupt matters
        thing = Struck()
        del thing
        time.sleep(10)
    assert time.monotonic() - begun < 5
    assert sys.unraisablehook is hook


def test_other_errors_in_a_finaliser_are_reported_as_before():
    """Law: only interrupts are taken out."""
    told = []
    hook, sys.unraisablehook = sys.unraisablehook, told.append

    class Broken:
        def __del__(self) -> None:
            raise ValueError("no")

    try:
        with interrupts():
            thing = Broken()
            del thing
    finally:
        sys.unraisablehook = hook
    assert [str(lost.exc_value) for lost in told] == ["no"]


DEAF = """if True:
    import ctypes, signal, sys
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    from ray_unlearn.interrupts import ends_within, interrupts
    with ends_within(0.5), interrupts():
        while True:
            try:
                print("ready", flush=True)
                # A mutex is had once; the second call never comes back from C, signal or no signal.
                libc.pthread_mutex_lock(mutex) if sys.argv[1] == "calls" else signal.pause()
            except BaseException:
                pass
"""


@pytest.mark.parametrize(("how", "number", "code"), [("swallows", signal.SIGINT, 130), ("calls", signal.SIGTERM, 143)])
def test_what_does_not_heed_a_signal_ends_within_its_grace(how: str, number: signal.Signals, code: int):
    """Law: code that swallows everything, and a call into C that never returns, are over when the grace is."""
    process = subprocess.Popen([sys.executable, "-c", DEAF, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    begun = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert 0.4 < time.monotonic() - begun < 5
    assert said.decode() == (
        f"interrupted by {number.name}; the command had not ended after 0.5 s and was stopped; {RESUMABLE}\n"
    )


def test_a_block_that_is_left_in_time_is_not_cut_short():
    """Law: the watch ends with the block: no thread, no wake-up descriptor, no end of this process stays behind."""
    threads = threading.active_count()
    with pytest.raises(Interrupted), ends_within(0.2), interrupts():
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.4)
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_a_childs_signals_are_its_own():
    """Law: SIGTERM to a forked child starts no clock in its parent."""
    with ends_within(0.2), interrupts():
        child = os.fork()
        if not child:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        time.sleep(0.5)


LEFT = """if True:
    import contextlib, ctypes, os, signal, sys, time
    from ray_unlearn.errors import Interrupted
    from ray_unlearn.interrupts import ends_within, interrupts
    libc, tasks = ctypes.PyDLL(None), os.listdir("/proc/self/task")
    with contextlib.suppress(Interrupted), ends_within(0.5), interrupts():
        child = libc.fork() if "C" in sys.argv else os.fork()  # C's tells Python nothing
        if not child:
            libc.sleep(3)
            libc._exit(0)
        if "signal" in sys.argv:
            signal.raise_signal(signal.SIGTERM)
    time.sleep(1)
    print("goes on", os.listdir("/proc/self/task") == tasks)
    os.kill(child, signal.SIGKILL)
"""


def test_a_block_that_was_left_ends_nothing_no_matter_who_holds_its_pipe():
    """Law: a live child with copies of the pipe keeps no grace running: its parent goes on, without a thread."""
    ways = (("C",), ("C", "signal"), ("signal",))
    each = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = {how: subprocess.Popen([sys.executable, "-c", LEFT, *how], **each) for how in ways}
    ended = {how: (*process.communicate(timeout=30), process.returncode) for how, process in started.items()}
    assert ended == dict.fromkeys(ways, ("goes on True\n", "", 0))


def test_a_forked_child_may_leave_the_block_too():
    """Law: leaving its parent's block, a child closes its copies of the pipe alone, not what has their numbers now."""
    reading, writing = os.pipe()
    block = ends_within(20)
    block.__enter__()
    (pipe,) = _PIPES
    child = os.fork()
    if not child:
        code = 1
        try:
            for end in pipe:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(end)
            files = [os.dup2(writing, end) for end in pipe]
            block.__exit__(None, None, None)
            code = 2 - sum(os.write(file, b"x") for file in files)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {pipe} == _PIPES
    block.__exit__(None, None, None)
    assert not _PIPES
    assert os.read(reading, 9) == b"xx"
    os.close(reading)
    os.close(writing)


def test_another_wake_up_descriptor_is_left_to_a_forked_child():
    """Law: outside of a block a child keeps what its parent set; inside, its signals wake no one."""
    with ends_within(20):
        pass
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    child = os.fork()
    if not child:
        os._exit(int(signal.set_wakeup_fd(-1) != writing))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert signal.set_wakeup_fd(before) == writing
    os.close(reading)
    os.close(writing)


def test_no_thread_keeps_a_command_that_was_interrupted():
    """Law: Python waits for the threads of a pool, a command that a signal ended does not: its storage may hang."""
    program = (
        "import time\nfrom concurrent.futures import ThreadPoolExecutor\nfrom ray_unlearn import cli\n"
        "def main():\n    ThreadPoolExecutor(1).submit(time.sleep, 60)\n    print('said')\n    return 143\n"
        "cli.main = main\ncli.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (143, "said\n")
