"""A function is called at intervals, whatever it raises, until the thread is stopped."""

import logging
import threading

import pytest

from app.periodic_thread import PeriodicThread

TIMEOUT = 10.0


def test_the_function_is_called_again_and_again_until_stop():
    calls = threading.Semaphore(0)
    thread = PeriodicThread(calls.release, 0.001, "test")
    thread.start()
    assert all(calls.acquire(timeout=TIMEOUT) for _ in range(3))
    thread.stop()
    while calls.acquire(blocking=False):
        pass
    assert not calls.acquire(timeout=0.02)


def test_an_exception_is_logged_and_the_calls_go_on(caplog: pytest.LogCaptureFixture):
    calls = threading.Semaphore(0)

    def fail() -> None:
        calls.release()
        raise ValueError("broken")

    thread = PeriodicThread(fail, 0.001, "test")
    with caplog.at_level(logging.ERROR):
        thread.start()
        assert all(calls.acquire(timeout=TIMEOUT) for _ in range(2))
        thread.stop()
    assert "thread 'test': a call failed" in caplog.text
    assert "ValueError: broken" in caplog.text


def test_stop_interrupts_the_interval_and_waits_for_the_current_call():
    has_begun, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        has_begun.set()
        may_end.wait(TIMEOUT)
        has_ended.set()

    thread = PeriodicThread(work, 0.001, "test")
    thread.start()
    assert has_begun.wait(TIMEOUT)
    threading.Timer(0.02, may_end.set).start()
    thread.stop()
    assert has_ended.is_set()

    idle = PeriodicThread(work, 3600, "test")
    idle.start()
    idle.stop()  # at once, not in an hour


def test_the_function_may_request_the_stop_itself():
    calls: list[int] = []

    def once() -> None:
        calls.append(1)
        thread.request_stop()

    thread = PeriodicThread(once, 0.001, "test")
    thread.start()
    assert thread.wait(TIMEOUT)
    thread.stop()
    assert calls == [1]
    assert thread.is_stopping


def test_a_stopped_thread_starts_again():
    calls = threading.Semaphore(0)
    thread = PeriodicThread(calls.release, 0.001, "test")
    for _ in range(2):
        thread.start()
        assert calls.acquire(timeout=TIMEOUT)
        thread.stop()


def test_stop_without_start_does_nothing():
    PeriodicThread(lambda: None, 1, "test").stop()
