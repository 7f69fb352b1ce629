"""A child that is waited for is known by what it used, and one that cannot be known says nothing wrong."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from workflows_pkg.orchestration.waiting import Wait

TAKEN_MIB = 60


def takes(then: str, send) -> None:  # type: ignore[no-untyped-def]
    """Takes memory and time, says what it had used, and ends as it was told to."""
    until = time.process_time() + 0.3
    taken = bytearray(TAKEN_MIB * 2**20)
    while time.process_time() < until:
        taken[::4096] = bytes(len(taken[::4096]))
    send.send(time.process_time())
    if then == "dies":
        os._exit(7)


@pytest.mark.parametrize(("then", "code"), [("dies", 7), ("ends", 0)])
def test_memory_of_a_program_smaller_than_its_parent_ever_was_is_unknown(then: str, code: int) -> None:
    bigger = bytearray(4 * TAKEN_MIB * 2**20)
    bigger[::4096] = bytes(len(bigger[::4096]))
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=takes, args=(then, send))
    process.start()
    wait = Wait(process)
    assert wait.account() is None
    while process.is_alive():
        time.sleep(0.01)
    assert process.exitcode == code
    account = wait.account()
    assert account is not None
    told = receive.recv()
    if then == "dies":
        assert account.cpu_s == pytest.approx(told, rel=0.1, abs=0.05)
    else:  # the end of an interpreter, and of the coverage it may measure, is used by the process too
        assert told <= account.cpu_s + 0.02 <= told + 1
    assert account.peak_memory_mib is None


def test_joining_waits_and_keeps_the_account() -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=time.sleep, args=(0.3,))
    process.start()
    wait = Wait(process)
    process.join()
    assert process.exitcode == 0
    assert wait.account() is not None


def test_what_is_not_known_is_left_as_it_is() -> None:
    class Other:
        _popen = object()

    wait = Wait(Other())  # type: ignore[arg-type]
    assert wait.account() is None
