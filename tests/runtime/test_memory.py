"""Memory that was freed goes back to the system, now and then."""

import threading

import numpy as np
import pytest

from omnidrop_stream.model.heap import malloc_trim
from runtime.memory import FreedMemory
from runtime.worker import ModelWorker
from tests.faults.measure import resident_mib

WAIT_S = 10.0


def test_memory_is_given_back_once_in_each_interval():
    now_s, given = [100.0], []
    freed = FreedMemory(lambda: given.append(now_s[0]), lambda: now_s[0], every_s=30.0)
    done = []
    for now_s[0] in (100.0, 129.9, 130.0, 131.0, 159.9, 160.0, 500.0, 501.0):
        done.append(freed.tidy())
    assert given == [130.0, 160.0, 500.0]
    assert done == [False, False, True, False, False, True, True, False]


def test_where_nothing_can_be_done_nothing_is_done():
    assert not FreedMemory(None, every_s=0.0).tidy()


def test_pages_between_blocks_in_use_go_back_to_the_system():
    give_back = malloc_trim()
    if give_back is None:
        pytest.skip("not glibc: its allocator is left alone")
    blocks = [np.ones(16 * 1024, np.uint8) for _ in range(4000)]  # 62 MiB
    kept = blocks[::10]  # so that no heap ends in a free stretch
    del blocks
    before_mib = resident_mib()
    give_back()
    assert resident_mib() < before_mib - 30
    assert all(block.all() for block in kept)


def test_the_model_thread_gives_memory_back_between_two_turns():
    threads, done = [], threading.Event()

    def give_back():
        threads.append(threading.get_ident())
        done.set()

    worker = ModelWorker(freed=FreedMemory(give_back, every_s=0.0))
    worker.start()
    worker.call(lambda: None).result(WAIT_S)
    assert done.wait(WAIT_S)
    assert threads[0] == worker.ident
    assert worker.close()
