"""Memory that was freed goes back to the system, now and then."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from omnidrop_stream.model.heap import malloc_trim
from runtime.memory import OPTIONS, FreedMemory
from runtime.worker import ModelWorker
from tests.faults.__main__ import ENVIRONMENT
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


PROBE = """
import ctypes, sys
from runtime.memory import settle_heap
from tests.faults.measure import mapped_blocks

malloc = ctypes.CDLL(None).malloc
malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
print(*settle_heap(), file=sys.stderr)
before = mapped_blocks()
for _ in range(100):
    malloc(100 * 1024)
print(mapped_blocks() - before)
"""


def settled(**environment):
    """How many of 100 blocks of 100 KiB have memory of their own after settling (a few may find
    room in the heap), and what was settled.
    """
    if malloc_trim() is None:
        pytest.skip("not glibc: its allocator is left alone")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**plain, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout), done.stderr.split()


def test_a_large_block_is_given_back_as_soon_as_it_is_freed_once_the_heap_is_settled():
    mapped, options = settled()
    assert mapped > 50
    assert options == list(OPTIONS)


def test_what_the_environment_says_of_the_heap_stays():
    large = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    assert settled(**large) == (0, ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_"])


def test_beside_the_c_librarys_own_tunables_nothing_is_set():
    large = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={2**20}"}
    assert settled(**large) == (0, [])


def test_the_heap_is_settled_as_the_fault_suite_has_it():
    assert {name: str(value) for name, (_, value) in OPTIONS.items()} == {
        name: value for name, value in ENVIRONMENT.items() if name.startswith("MALLOC_")
    }


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
