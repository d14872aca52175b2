"""The journal keeps its promise across a crash at any point."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop_stream.errors import ConfigError
from runtime.journal import Journal, JournalFile, NewQuery
from runtime.stats import Stats


def query(id_: str = "q1", client: str = "me", camera: str = "door", **values: object) -> NewQuery:
    base = NewQuery(client, id_, camera, b"{}", 100.0, 160.0)
    return NewQuery(
        **{**{name: getattr(base, name) for name in NewQuery.__slots__}, **values}  # type: ignore[arg-type]
    )


@pytest.fixture
def file(tmp_path: Path) -> Iterator[JournalFile]:
    file = JournalFile(tmp_path / "journal.db")
    yield file
    file.close()


def test_a_question_is_accepted_once(file: JournalFile):
    first, second = file.accept(query()), file.accept(query(request=b"other"))
    assert (first.known, second.known) == (False, True)
    assert first.row == second.row


def test_two_clients_may_use_one_id(file: JournalFile):
    assert not file.accept(query(client="a")).known
    assert not file.accept(query(client="b")).known


def test_a_question_has_one_end_the_first(file: JournalFile):
    number = file.accept(query()).row.number
    assert file.finish(number, "final", b"one").final == b"one"
    assert file.finish(number, "error", b"two").final == b"one"
    assert file.get(number).ended_as == "final"


def test_what_has_not_ended_cannot_have_been_delivered(file: JournalFile):
    number = file.accept(query()).row.number
    file.delivered(number)
    assert [row.number for row in file.unfinished()] == [number]


def test_the_parts_of_a_question_have_rows_of_their_own(file: JournalFile):
    accepted = file.accept(query(camera="all", parts=(("q1/a", "a"), ("q1/b", "b"))))
    assert [(part.id, part.camera) for part in accepted.parts] == [("q1/a", "a"), ("q1/b", "b")]
    assert {part.parent for part in accepted.parts} == {accepted.row.number}


def test_only_what_ended_long_ago_is_deleted(file: JournalFile):
    old = file.accept(query("old")).row.number
    file.accept(query("old and open"))
    new = file.accept(query("new", accepted_wall_s=1e6, deadline_wall_s=1e6)).row.number
    for number in (old, new):
        file.finish(number, "final", b"x")
        file.delivered(number)
    assert file.purge(before_wall_s=1000.0) == 1
    assert file.find("me", "old") is None
    assert file.find("me", "old and open") is not None
    assert file.find("me", "new") is not None


def test_a_number_is_never_used_twice(file: JournalFile):
    number = file.accept(query("a")).row.number
    file.finish(number, "final", b"x")
    file.delivered(number)
    file.purge(1000.0)
    assert file.accept(query("b")).row.number > number


def test_a_new_route_is_kept_until_the_end(file: JournalFile):
    number = file.accept(query()).row.number
    file.reroute(number, b"new")
    file.finish(number, "final", b"x")
    file.reroute(number, b"newer")
    assert file.get(number).request == b"new"


def test_a_commit_is_on_disk_before_it_returns(file: JournalFile):
    """SQLite's own promise, under these two settings."""
    found = [
        file._db.execute(f"pragma {name}").fetchone() for name in ("journal_mode", "synchronous")
    ]
    assert found == [("wal",), (2,)]


STEP = st.one_of(
    st.tuples(st.just("accept"), st.integers(0, 5)),
    st.tuples(st.just("finish"), st.integers(0, 5)),
    st.tuples(st.just("delivered"), st.integers(0, 5)),
    st.tuples(st.just("crash"), st.booleans()),
)


@settings(max_examples=15)
@given(steps=st.lists(STEP, max_size=25))
def test_a_crash_at_any_point_loses_no_accepted_question_and_changes_no_end(
    steps: list[tuple[str, int]],
):
    """A crash is a copy of the files as they lie on disk, in the middle of a transaction or not."""
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "0.db"
        file = JournalFile(path)
        accepted: set[str] = set()
        ends: dict[str, bytes] = {}
        for count, (what, which) in enumerate(steps):
            id_ = f"q{which}"
            if what == "crash":
                path, file = crashed(path, file, folder / f"{count + 1}.db", bool(which))
            else:
                file.begin()
                row = file.find("me", id_)
                if what == "accept":
                    file.accept(query(id_))
                    accepted.add(id_)
                elif row is not None and what == "finish":
                    end = file.finish(row.number, "final", b"%d" % count).final
                    assert end is not None
                    ends.setdefault(id_, end)
                elif row is not None:
                    file.delivered(row.number)
                file.commit()
            assert all(file.find("me", known) is not None for known in accepted)
            for known, end in ends.items():
                found = file.find("me", known)
                assert found is not None
                assert found.final == end
        file.close()
    finally:
        shutil.rmtree(folder)


def crashed(path: Path, file: JournalFile, copy: Path, midway: bool) -> tuple[Path, JournalFile]:
    if midway:  # something was being written that nobody was told of
        file.begin()
        file.accept(query("never told"))
    for tail in ("", "-wal"):
        if path.with_name(path.name + tail).exists():
            shutil.copy(path.with_name(path.name + tail), copy.with_name(copy.name + tail))
    file.rollback()
    file.close()
    again = JournalFile(copy)
    assert again.find("me", "never told") is None
    return copy, again


async def test_what_was_done_is_there_after_a_reopening(tmp_path: Path):
    async with Journal(tmp_path / "j.db") as journal:
        accepted = await journal.do(lambda file: file.accept(query()))
    async with Journal(tmp_path / "j.db") as journal:
        row = await journal.do(lambda file: file.get(accepted.row.number))
    assert row == accepted.row


async def test_what_may_be_late_is_written_in_the_end(tmp_path: Path):
    async with Journal(tmp_path / "j.db") as journal:
        number = (await journal.do(lambda file: file.accept(query()))).row.number
        journal.later(lambda file: file.told(number))
    async with Journal(tmp_path / "j.db") as journal:
        assert (await journal.do(lambda file: file.get(number))).told


async def test_a_step_that_fails_harms_no_step_beside_it(tmp_path: Path):
    def half(file: JournalFile) -> None:
        file.accept(query("half"))
        raise ValueError("no")

    async with Journal(tmp_path / "j.db") as journal:
        results = await asyncio.gather(
            journal.do(lambda file: file.accept(query("a"))),
            journal.do(half),
            journal.do(lambda file: file.accept(query("b"))),
            return_exceptions=True,
        )
        assert isinstance(results[1], ValueError)
        rows = [
            await journal.do(lambda file, id_=id_: file.find("me", id_))
            for id_ in ("a", "half", "b")
        ]
        assert [row is not None for row in rows] == [True, False, True]


async def test_a_disk_that_refuses_is_told_to_whoever_waits(tmp_path: Path):
    stats = Stats()
    async with Journal(tmp_path / "j.db", stats) as journal:
        await journal.do(lambda file: file._db.execute("pragma query_only = on"))
        with pytest.raises(sqlite3.Error):
            await journal.do(lambda file: file.accept(query()))


async def test_many_steps_at_once_are_committed_together(tmp_path: Path):
    stats = Stats()
    async with Journal(tmp_path / "j.db", stats) as journal:
        await asyncio.gather(
            *(journal.do(lambda file, n=n: file.accept(query(f"q{n}"))) for n in range(100))
        )
        assert stats.snapshot()["timings_ms"]["journal.commit"]["n"] < 50


async def test_a_second_process_on_one_journal_is_told_so(tmp_path: Path):
    async with Journal(tmp_path / "j.db") as first:
        await first.do(lambda file: file.accept(query()))
        with pytest.raises(ConfigError, match="in use by another process"):
            async with Journal(tmp_path / "j.db"):
                pass


async def test_what_is_no_journal_is_moved_aside_and_counted(tmp_path: Path):
    (tmp_path / "j.db").write_bytes(b"this is no database" * 100)
    stats = Stats()
    async with Journal(tmp_path / "j.db", stats, wall=lambda: 7.0) as journal:
        await journal.do(lambda file: file.accept(query()))
    assert (tmp_path / "j.db.damaged-7").read_bytes().startswith(b"this is no database")
    assert stats.counter("journal.damaged") == 1


async def test_after_its_end_nothing_is_taken(tmp_path: Path):
    async with Journal(tmp_path / "j.db") as journal:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await journal.do(lambda file: file.unfinished())


async def test_the_file_is_touched_by_one_thread_that_is_not_the_loops(tmp_path: Path):
    async with Journal(tmp_path / "j.db") as journal:
        idents = {await journal.do(lambda file: threading.get_ident()) for _ in range(3)}
    assert len(idents) == 1
    assert idents != {threading.get_ident()}
