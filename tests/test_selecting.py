"""A snapshot seen as one window, and what is left of it after a choice."""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.method import make_policy
from omnidrop_stream.model.rope import audio_offsets, video_offsets
from omnidrop_stream.selecting import check_whole, selected, window_of
from omnidrop_stream.types import ChunkFlags, ChunkTokens


def segment(chunk: int, patches: int = 2, sound: int = 50) -> Segment:
    """A chunk at depth 0 with patches of 2 x 3 tokens; its sound shares one attention evenly."""
    video = 6 * patches
    n = video + sound
    embeds = torch.randn(n, 8, generator=torch.Generator().manual_seed(chunk))
    tokens = ChunkTokens(
        embeds=embeds,
        modality=torch.tensor([0] * video + [1] * sound, dtype=torch.uint8),
        offsets=torch.cat([video_offsets(patches, 2, 3, 25.0), audio_offsets(sound)], dim=1),
        n_unpruned=n,
        n_unpruned_video=video,
        last_id=(sound - 1, -1),
        saliency=torch.cat([torch.zeros(video), torch.full((sound,), 1.0 / sound)]),
    )
    none = torch.zeros(0, 2, 0, 4)
    times = {"start_s": 2.0 * chunk, "end_s": 2.0 * chunk + 2.0, "wall_time_s": None}
    return Segment(
        chunk=chunk,
        epoch=0,
        window=chunk // 2,
        flags=ChunkFlags(),
        tokens=tokens,
        keys=none,
        values=none,
        hidden=embeds,
        seen_from=0,
        **times,
    )


HELD = (segment(0), segment(1), segment(2, patches=1, sound=20))


def test_patches_are_counted_over_the_window_and_keep_their_order():
    window = window_of(HELD)
    assert [len(patch) for patch in window.patches()] == [6] * 5
    assert window.patch[:12].tolist() == [0] * 6 + [1] * 6
    assert window.patch[window.modality == 1].unique().tolist() == [-1]
    assert torch.bincount(window.chunk).tolist() == [62, 62, 26]


def test_a_short_blocks_sound_is_not_salient_for_being_short():
    window = window_of(HELD)
    torch.testing.assert_close(window.saliency[window.audio], torch.ones(120))


def test_what_is_left_keeps_its_positions_and_its_place_among_the_chunks():
    left = selected(make_policy("random-input"), HELD, 60)
    assert sum(s.count for s in left) == 60
    assert [s.chunk for s in left] == [0, 1, 2]
    for before, after in zip(HELD, left, strict=True):
        assert after.tokens.n_unpruned == before.tokens.n_unpruned
        assert after.tokens.last_id == before.tokens.last_id
        assert after.hidden is after.tokens.embeds
        rows = (before.tokens.embeds[:, None] == after.tokens.embeds).all(dim=2).nonzero()[:, 0]
        assert torch.equal(after.tokens.offsets, before.tokens.offsets[:, rows])


def test_merged_embeddings_take_their_anchors_place():
    plain = selected(make_policy("omnizip-no-anchors"), HELD, 60)
    merged = selected(make_policy("omnizip"), HELD, 60)
    known = torch.cat([s.tokens.embeds for s in HELD])
    own = [(torch.cat([s.tokens.embeds for s in left])[:, None] == known).all(dim=2).any(dim=1)
           for left in (plain, merged)]  # fmt: skip
    assert own[0].all()
    assert int((~own[1]).sum()) in range(1, 7)  # 0.05 of 120 are anchors
    assert all(s.hidden is s.tokens.embeds for s in merged)


def test_a_policy_that_prunes_in_the_decoder_leaves_the_segments_alone():
    assert selected(make_policy("omnidrop"), HELD, 60) is HELD


def test_segments_that_lack_tokens_are_refused_by_what_chooses_among_all():
    thinner = HELD[0].only(HELD[0].tokens.modality == 1)
    check_whole(make_policy("dash"), HELD)
    check_whole(make_policy("omnidrop"), (thinner,))
    with pytest.raises(ConfigError, match=r"open a stream with pruning\.policy dash"):
        check_whole(make_policy("dash"), (thinner, *HELD[1:]))


def test_a_window_that_a_rule_cannot_cut_so_far_is_refused_in_plain_words():
    with pytest.raises(ConfigError, match="policy 'dycoke': DyCoke keeps all sound"):
        selected(make_policy("dycoke"), HELD, 60)
