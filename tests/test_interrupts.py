"""Signals become `Interrupted`, wherever they strike."""

from __future__ import annotations

import os
import signal

import pytest

from ray_unlearn.errors import Interrupted
from ray_unlearn.interrupts import interrupts


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
