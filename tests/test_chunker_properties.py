"""What holds for every stream, however it is packed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import CHUNK_SAMPLES, SAMPLE_RATE, Chunk, Frame, Samples, StreamKind
from tests.streams import (
    Item,
    all_same,
    heard,
    picture,
    run,
    video,
)


@st.composite
def packetisations(draw: st.DrawFn) -> tuple[float, list[Item], list[Item]]:
    """The same gapless media, packed in two ways and interleaved with some skew."""
    length_s = draw(st.floats(0.2, 7.0))
    start_s = draw(st.sampled_from([0.0, 0.013, 1234.567]))
    fps = draw(st.sampled_from([2, 5, 23.976, 30]))
    frames = video(start_s, start_s + length_s, fps)
    first = round(start_s * SAMPLE_RATE)
    pcm = (np.arange(round(length_s * SAMPLE_RATE)) + first + 1).astype(np.float32)
    streams = []
    for _ in range(2):
        cuts = sorted({0, *draw(st.lists(st.integers(0, len(pcm)), max_size=30))})
        ends = [*cuts[1:], len(pcm)]
        blocks: list[Item] = []
        for low, high in zip(cuts, ends, strict=True):
            for at in range(low, high, 4000):  # at most 0.25 s, so that media stay interleaved
                run_of = pcm[at : min(at + 4000, high)]
                blocks.append(Samples(run_of, start_s + at / SAMPLE_RATE))
        skew_s = draw(st.floats(-0.3, 0.3))
        streams.append(
            sorted(
                [*frames, *blocks],
                key=lambda i, skew_s=skew_s: i.time_s + skew_s * isinstance(i, Frame),
            )
        )
    return start_s, streams[0], streams[1]


@given(packetisations())
def test_any_packing_of_the_same_media_gives_the_same_chunks(
    case: tuple[float, list[Item], list[Item]],
) -> None:
    _, one, other = case
    assert all_same(run(Chunker(), one), run(Chunker(), other))


@given(packetisations())
def test_every_sample_of_a_gapless_stream_appears_once_and_in_order(
    case: tuple[float, list[Item], list[Item]],
) -> None:
    _, items, _ = case
    chunker = Chunker()
    chunks = run(chunker, items)
    pcm = np.concatenate([item.pcm for item in items if isinstance(item, Samples)])
    kept = len(pcm) - chunker.counters.dropped_rest_samples
    assert np.array_equal(heard(chunks), pcm[:kept])


@given(packetisations())
def test_every_chunk_but_the_last_is_two_seconds_long(
    case: tuple[float, list[Item], list[Item]],
) -> None:
    chunks = run(Chunker(), case[1])
    assert all(len(c.audio) == CHUNK_SAMPLES and len(c.frames) == 4 for c in chunks[:-1])
    assert all(c.duration_s == 2.0 for c in chunks[:-1])


@given(packetisations(), st.floats(0, 1))
def test_later_material_never_changes_earlier_chunks(
    case: tuple[float, list[Item], list[Item]], part: float
) -> None:
    items = case[1]
    early = run(Chunker(), items[: int(len(items) * part)], flush=False)
    copies = [(c.index, c.frames.copy(), c.audio.copy()) for c in early]
    whole = run(Chunker(), items)
    assert all_same(early, whole[: len(early)])
    assert all(
        np.array_equal(c.frames, f) and np.array_equal(c.audio, a) and c.index == i
        for c, (i, f, a) in zip(early, copies, strict=True)
    )


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(-3, 40), st.integers(1, 8000), st.booleans()),
        max_size=60,
    ),
    st.sampled_from(list(StreamKind)),
)
def test_whatever_comes_stream_time_goes_on_and_indices_rise(
    raw: list[tuple[bool, float, int, bool]], kind: StreamKind
) -> None:
    items: list[Item] = [
        Frame(picture(1, (4, 6) if big else (6, 4)), t)
        if is_frame
        else Samples(np.ones(n, np.float32), t)
        for is_frame, t, n, big in raw
    ]
    chunks = run(Chunker(ChunkerSettings(kind=kind)), items)
    for a, b in pairwise(chunks):
        assert a.index < b.index
        assert a.epoch <= b.epoch
        assert a.end_s <= b.start_s + 1e-6
    assert all(c.frames is not None or c.audio is not None for c in chunks)
    assert all(0 < c.duration_s <= 2.0 for c in chunks)
    assert all(c.audio is None or len(c.audio) <= CHUNK_SAMPLES for c in chunks)


_FAULTS = ("reset", "forward", "backward", "small", "fast", "slow", "frozen", "lost", "told")


@dataclass(frozen=True)
class Broken:
    """Media that are interleaved as they come, and at some ticks (0.1 s) a fault of a clock, of one
    medium or of both.
    """

    faults: tuple[tuple[int, str, str], ...]
    skew: int
    begin_s: float


BROKEN = st.builds(
    Broken,
    st.lists(
        st.tuples(st.integers(1, 140), st.sampled_from(_FAULTS), st.sampled_from("avb")), max_size=5
    ).map(tuple),
    st.integers(-4, 4),
    st.sampled_from([0.0, 77.7]),
)


def broken_items(stream: Broken) -> list[tuple[str, Item]]:
    """(what is told before the item, the item)."""
    offset = {"a": stream.begin_s, "v": stream.begin_s}
    rate, zero, lost = {"a": 1.0, "v": 1.0}, {"a": 0.0, "v": 0.0}, {"a": False, "v": False}
    items: list[tuple[str, Item]] = []
    for tick in range(150):  # of 0.1 s
        told = ""
        for at, kind, media in stream.faults:
            if at != tick:
                continue
            told = "told" if kind == "told" else told
            for medium in "av" if media == "b" else media:
                now_s = offset[medium] + (tick / 10 - zero[medium]) * rate[medium]
                jumps = {"reset": 0.0, "forward": now_s + 3600, "backward": now_s - 3600}
                jumps["small"] = now_s - 0.2
                rates = {"fast": 10.0, "slow": 0.1, "frozen": 0.0}
                if kind in jumps or kind in rates:
                    zero[medium], offset[medium] = tick / 10, jumps.get(kind, now_s)
                    rate[medium] = rates.get(kind, rate[medium])
                lost[medium] ^= kind == "lost"
        for medium, late in (("a", 0), ("v", stream.skew)):
            at_s = offset[medium] + (tick / 10 + late / 100 - zero[medium]) * rate[medium]
            if lost[medium]:
                continue
            if medium == "a":
                items.append((told, Samples(np.full(1600, tick + 1, np.float32), at_s)))
            else:
                items.append((told, Frame(picture(tick), at_s)))
            told = ""
    return items


@settings(max_examples=60)
@given(BROKEN, st.sampled_from(list(StreamKind)))
def test_whatever_clocks_do_chunks_are_whole_in_order_and_every_hole_is_named(
    stream: Broken, kind: StreamKind
) -> None:
    chunker, chunks = Chunker(ChunkerSettings(kind=kind)), list[Chunk]()
    newest_s, most = 0.0, 0
    for told, item in broken_items(stream):
        chunks += chunker.start_epoch("told") if told else []
        chunks += chunker.push(item)
        assert chunker.stream_time_s >= newest_s - 1e-6
        newest_s, most = chunker.stream_time_s, max(most, chunker.held)
    chunks += chunker.flush()
    assert most < 120
    end_s = 0.0
    for chunk in chunks:
        assert chunk.start_s >= end_s - 1e-6
        for gap in chunker.gaps:  # in order; they may follow on each other
            end_s = max(end_s, gap.to_s) if gap.from_s <= end_s + 1e-6 else end_s
        assert chunk.start_s <= end_s + 1e-6
        assert chunk.flags.partial or chunk.duration_s == 2.0
        assert chunk.flags.partial or chunk.audio is None or len(chunk.audio) == CHUNK_SAMPLES
        assert (chunk.audio is None) == (chunk.flags.audio_absent or kind is StreamKind.VIDEO)
        end_s = chunk.end_s


@settings(max_examples=30)
@given(BROKEN)
def test_the_same_items_give_the_same_chunks_whatever_their_clocks_did(stream: Broken) -> None:
    plain = [item for _, item in broken_items(stream)]
    assert all_same(run(Chunker(), plain), run(Chunker(), plain))
