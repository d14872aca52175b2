"""What leaves first: budgets hold under every policy, and each forgets as it says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop_stream.cache import EVICTION, Budget, EvictionSettings, Segment, TokenCache, slots_of
from omnidrop_stream.cache.eviction import evenly, fewer, salient
from omnidrop_stream.types import ChunkFlags, ChunkTokens, Modality

WIDTH = 8


def segment(chunk: int, window: int, video: int, audio: int, depth: int = 2) -> Segment:
    """A chunk whose every token can be told apart."""
    n = video + audio
    rng = torch.Generator().manual_seed(chunk)
    made = ChunkTokens(
        embeds=torch.randn(n, WIDTH, generator=rng),
        modality=torch.tensor([0] * video + [1] * audio, dtype=torch.uint8),
        offsets=torch.arange(n).expand(3, n).clone(),
        n_unpruned=3 * video + 2 * audio,
        n_unpruned_video=3 * video,
        last_id=(49, -1),
        saliency=torch.cat([torch.zeros(video), torch.rand(audio, generator=rng)]),
    )
    keys = torch.randn(depth, 2, n, 4, generator=rng)
    return Segment(
        chunk=chunk,
        epoch=0,
        window=window,
        start_s=2.0 * chunk,
        end_s=2.0 * chunk + 2.0,
        wall_time_s=None,
        flags=ChunkFlags(),
        tokens=made,
        keys=keys,
        values=keys + 1,
        hidden=torch.randn(n, WIDTH, generator=rng),
        seen_from=chunk,
    )


def filled(policy: str, chunks: int, budget: int, **shares) -> TokenCache:
    """A cache that has seen so many chunks of 8 video and 4 audio tokens, two to a window."""
    cache = TokenCache(Budget(budget), EVICTION[policy](EvictionSettings(**shares)))
    for i in range(chunks):
        push(cache, segment(i, i // 2, 8, 4))
    return cache


def push(cache: TokenCache, new: Segment) -> list[Segment]:
    left = cache.make_room(new.count, new.nbytes, 2, new.window)
    cache.append(new)
    return left


def of(cache: TokenCache, modality: Modality) -> dict[int, int]:
    """Tokens of a modality held, by chunk."""
    return {s.chunk: int((s.tokens.modality == modality).sum()) for s in cache.snapshot()}


def content(segments: tuple[Segment, ...]) -> list[tuple]:
    return [
        (s.chunk, s.tokens.embeds.tolist(), s.keys.tolist(), s.tokens.n_unpruned) for s in segments
    ]


sizes = st.tuples(st.integers(0, 8), st.integers(0, 6))
streams = st.lists(st.lists(sizes, min_size=1, max_size=2), min_size=1, max_size=12)


@pytest.mark.parametrize("policy", EVICTION)
@settings(max_examples=20)
@given(
    streams, st.integers(28, 70), st.integers(5, 12), st.booleans(), st.floats(0.05, 0.9),
    st.floats(0, 1), st.floats(0.05, 0.95),
)  # fmt: skip
def test_no_budget_is_ever_passed_no_chunk_is_lost_twice_and_a_snapshot_never_changes(
    policy, stream, tokens, slots, in_bytes, keep, whole, audio
):
    room = segment(0, 0, 20, 20).nbytes if in_bytes else None
    evict = EVICTION[policy](EvictionSettings(keep, whole, audio))
    cache = TokenCache(Budget(tokens, room, slots), evict)
    index, gone, taken = 0, list[int](), []
    for window, parts in enumerate(stream):
        for video, sound in parts:
            gone += [s.chunk for s in push(cache, segment(index, window, video, sound))]
            held = cache.snapshot()
            assert cache.tokens <= tokens
            assert room is None or cache.nbytes <= room
            assert slots_of(held)[-1] + 1 <= slots
            assert held[-1].count == video + sound
            assert sorted([*gone, *(s.chunk for s in held)]) == list(range(index + 1))
            assert [s.chunk for s in held] == sorted(s.chunk for s in held)
            assert all(s.count <= s.tokens.n_unpruned for s in held)
            if index < 6:
                taken.append((held, content(held)))
            index += 1
    assert all(content(held) == before for held, before in taken)
    assert cache.evicted_chunks == len(gone)
    pushed = sum(video + sound for parts in stream for video, sound in parts)
    assert cache.evicted_tokens == pushed - cache.tokens


@pytest.mark.parametrize("policy", ["thin_even", "thin_salient"])
def test_thinning_sees_further_back_with_the_recent_half_whole(policy):
    cache, plain = filled(policy, 40, 240), filled("oldest_window", 40, 240)
    held, before = cache.snapshot(), plain.snapshot()
    assert held[0].chunk < before[0].chunk
    whole = [s for s in held if not s.thinned]
    assert [s.chunk for s in whole] == list(range(whole[0].chunk, 40))
    assert sum(s.count for s in whole) >= 0.4 * cache.tokens
    # a quarter of 8 and of 4 tokens
    assert {(of(cache, Modality.VIDEO)[s.chunk], of(cache, Modality.AUDIO)[s.chunk])
            for s in held if s.thinned} == {(2, 1)}  # fmt: skip


def test_windows_are_thinned_whole():
    cache = filled("thin_even", 31, 240)
    by_window: dict[int, set[bool]] = {}
    for s in cache.snapshot():
        by_window.setdefault(s.window, set()).add(s.thinned)
    assert all(len(states) == 1 for states in by_window.values())


def test_even_thinning_keeps_tokens_at_even_distances_of_each_modality():
    (mask,) = evenly((segment(0, 0, 8, 4),), 0.5)
    assert mask.nonzero()[:, 0].tolist() == [1, 3, 5, 7, 9, 11]


def test_salient_thinning_keeps_the_sound_that_was_attended_to_most():
    s = segment(3, 0, 8, 4)
    (mask,) = salient((s,), 0.5)
    audio = s.tokens.saliency[8:]
    assert set((mask[8:].nonzero()[:, 0]).tolist()) == set(audio.topk(2).indices.tolist())
    assert mask.sum() == 6


def test_salient_thinning_drops_pictures_that_repeat_an_earlier_one_of_the_window():
    window = (segment(0, 0, 6, 2), segment(1, 0, 6, 2))
    window[0].tokens.embeds[4] = 2.0 * window[0].tokens.embeds[1]
    window[1].tokens.embeds[:5] = window[0].tokens.embeds[:5]
    first, second = salient(window, 0.5)
    assert not first[4]  # repeats token 1 of its own chunk
    assert second[5]  # the only picture of the second chunk that is new


def test_the_pictures_least_like_any_earlier_one_of_the_window_stay():
    window = (segment(0, 0, 6, 2), segment(1, 0, 7, 0))
    pictures = [*window[0].tokens.embeds[:6], *window[1].tokens.embeds]
    likeness = [
        max((float(torch.cosine_similarity(p, q, dim=0)) for q in pictures[:i]), default=-2.0)
        for i, p in enumerate(pictures)
    ]
    kept = [
        mask[: len(mask) - sound] for mask, sound in zip(salient(window, 0.4), (2, 0), strict=True)
    ]
    for part, mask in ((likeness[:6], kept[0]), (likeness[6:], kept[1])):
        expected = sorted(range(len(part)), key=lambda i: part[i])[:3]
        assert mask.nonzero()[:, 0].tolist() == sorted(expected)


def test_a_thinned_segment_keeps_the_states_and_positions_of_what_stays():
    s = segment(0, 0, 8, 4)
    kept = torch.zeros(12, dtype=torch.bool)
    kept[[1, 5, 9]] = True
    left = fewer(s, kept)
    assert torch.equal(left.keys, s.keys[:, :, [1, 5, 9]])
    assert torch.equal(left.tokens.offsets, s.tokens.offsets[:, [1, 5, 9]])
    assert left.tokens.last_id == s.tokens.last_id
    # of 24 unpruned pictures and 8 of sound, in proportion
    assert (left.tokens.n_unpruned_video, left.tokens.n_unpruned) == (6, 8)


def test_with_separate_budgets_sound_reaches_further_back_than_pictures():
    cache = filled("separate", 60, 240, audio_share=0.5)
    video, audio = of(cache, Modality.VIDEO), of(cache, Modality.AUDIO)
    assert sum(audio.values()) == pytest.approx(120, abs=12)
    oldest = {m: min(c for c, n in held.items() if n) for m, held in (("v", video), ("a", audio))}
    assert oldest["a"] < oldest["v"]
    assert all(video[c] == 8 for c in video if c >= oldest["v"])


def test_with_a_small_share_of_sound_pictures_reach_further_back():
    cache = filled("separate", 60, 240, audio_share=0.1)
    video, audio = of(cache, Modality.VIDEO), of(cache, Modality.AUDIO)
    assert min(c for c, n in video.items() if n) < min(c for c, n in audio.items() if n)


@pytest.mark.parametrize("policy", EVICTION)
def test_short_slots_take_whole_windows(policy):
    cache = TokenCache(Budget(10_000, max_slots=12), EVICTION[policy](EvictionSettings()))
    for i in range(24):
        push(cache, segment(i, i // 2, 8, 4))
    assert all(s.count == 12 for s in cache.snapshot())
