from __future__ import annotations

import threading

from imagedist.unpack.spare import SpareCpus


def test_task_runs_beside_while_a_cpu_is_idle_and_is_refused_when_none_is() -> None:
    spare = SpareCpus(2)
    go, threads = threading.Event(), []

    def task() -> None:
        threads.append(threading.current_thread())
        go.wait()

    with spare.busy():
        assert spare.try_run(task)
        assert not spare.try_run(task)
    assert spare.try_run(task)
    go.set()
    spare.close()
    assert len(threads) == 2
    assert threading.current_thread() not in threads


def test_cpu_is_idle_again_after_a_task_failed() -> None:
    spare = SpareCpus(1)
    failed = threading.Event()

    def task() -> None:
        failed.set()
        raise ValueError

    assert spare.try_run(task)
    failed.wait()
    while not spare.try_run(failed.set):
        failed.wait(0.001)  # the failed task is on its way out
    spare.close()


def test_closed_one_takes_no_task() -> None:
    spare = SpareCpus(4)
    spare.close()
    assert not spare.try_run(lambda: None)


def test_threads_are_placed_before_their_first_task() -> None:
    placed: list[int] = []
    seen: list[bool] = []
    spare = SpareCpus(1, initializer=lambda: placed.append(threading.get_ident()))
    assert spare.try_run(lambda: seen.append(threading.get_ident() in placed))
    spare.close()
    assert seen == [True]


def test_task_is_refused_and_done_once_when_no_thread_can_be_started() -> None:
    spare, done = SpareCpus(1), []
    size_before = threading.stack_size(1 << 46)  # no such address space
    try:
        assert not spare.try_run(lambda: done.append("refused"))
    finally:
        threading.stack_size(size_before)
    assert spare.try_run(lambda: done.append("taken"))
    spare.close()
    assert done == ["taken"]
