"""What inspect finds: attention that agrees with the prefill, recall, retention, embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.cache import slots_of
from omnidrop_stream.errors import MissingDependency, NothingHeld
from omnidrop_stream.lab.fingerprint import fingerprint
from omnidrop_stream.lab.inspect import Inspector, Sampling, to_json
from omnidrop_stream.lab.inspect_attention import attention_scores, chunk_means, top_recall
from omnidrop_stream.lab.inspect_draw import draw
from omnidrop_stream.lab.inspect_embeddings import cosines, principal
from omnidrop_stream.lab.inspect_types import Asked, Inspection
from omnidrop_stream.lab.inspect_world import world_clips
from omnidrop_stream.method import KeepAll
from omnidrop_stream.model.base import Question
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import StreamKind
from omnidrop_stream.world import QUESTION_KINDS
from tests.helpers import UNPRUNED, make_chunks, settings, small_model

PNG = b"\x89PNG\r\n\x1a\n"
TEXT = "What is shown?"


@pytest.fixture(scope="module")
def model() -> QwenOmni:
    return small_model(layers=6)


def inspected(model: QwenOmni, kind: StreamKind = StreamKind.AV) -> Inspection:
    inspector = Inspector(
        model, settings(pruning={"retention": 0.4}), Sampling(points=50, pairs=200)
    )
    asked = [Asked(TEXT, "seeing"), Asked("What is said?", "hearing"), Asked("Who?", "seeing")]
    inspector.add(kind, make_chunks(3, kind), asked)
    return inspector.result()


@pytest.fixture(scope="module")
def found(model: QwenOmni) -> Inspection:
    return inspected(model)


@pytest.mark.parametrize("kind", list(StreamKind))
def test_the_scores_are_those_that_the_prefill_takes(model: QwenOmni, kind: StreamKind) -> None:
    config = settings(stream={"kind": kind, "prefill_depth": 0}, **UNPRUNED)
    stream = OmniStream(model, config)
    for chunk in make_chunks(3, kind):
        stream.push(chunk)
    held = stream.snapshot()
    scores = attention_scores(model, kind, config.stream.system_prompt, held, TEXT)
    template = ChatTemplate(model.tokenizer, kind)
    prompt = model.prefill_prompt(*template.prompt(config.stream.system_prompt))
    tail = template.tail(TEXT)
    n, layers = sum(s.count for s in held), model.spec.n_layers
    rows = tuple(range(tail.question.start, tail.question.stop))
    asked = Question(tail.ids, tail.markers, rows, KeepAll(), (n,) * layers, 0, 1)
    prefill = model.pruned_prefill(prompt, held, slots_of(held), asked)
    for _ in range(layers):
        next(prefill)
    with pytest.raises(StopIteration) as ended:
        next(prefill)
    evidence = ended.value.value.evidence
    assert scores.shape == (layers, n)
    torch.testing.assert_close(
        scores[layers // 2 :].sum(dim=0), evidence.cpu(), rtol=1e-4, atol=1e-7
    )


def test_a_chunks_attention_is_the_mean_of_its_tokens() -> None:
    scores = torch.tensor([[1.0, 3.0, 10.0], [0.0, 4.0, 5.0]])
    means = chunk_means(scores, torch.tensor([0, 0, 2]), 3)
    assert means[:, [0, 2]].tolist() == [[2.0, 10.0], [2.0, 5.0]]
    assert bool(means[:, 1].isnan().all())


def test_recall_is_what_the_strongest_fifth_holds() -> None:
    scores = torch.tensor([[1.0] * 10, [0.0] * 9 + [1.0], [6.0, 2.0, *[0.25] * 8]])
    assert top_recall(scores).tolist() == pytest.approx([0.2, 1.0, 0.8])


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=40))
def test_recall_is_never_below_an_even_spread(values: list[float]) -> None:
    recall = float(top_recall(torch.tensor([values])))
    assert max(1, int(0.2 * len(values))) / len(values) - 1e-5 <= recall <= 1.0 + 1e-5


def test_an_inspection_counts_by_kind_and_layer(found: Inspection) -> None:
    assert [(one.kind, one.questions) for one in found.retention] == [("seeing", 2), ("hearing", 1)]
    for one in found.retention:
        assert len(one.video) == len(one.audio) == 6
        assert one.audio[0] == pytest.approx(0.7, abs=0.01)
        assert one.video[-1] < one.video[0] < 0.5
    assert len(found.recall.video) == len(found.recall.audio) == 6
    assert all(0.19 <= x <= 1.0 for x in (*found.recall.video, *found.recall.audio))
    assert (found.recall.questions, found.clips, found.chunks) == (3, 1, 3)


def test_a_map_has_a_row_for_each_layer_and_a_column_for_each_chunk(found: Inspection) -> None:
    first = found.maps[0]
    assert (first.question, first.kind, first.starts_s) == (TEXT, "seeing", (0.0, 2.0, 4.0))
    assert [len(layer) for layer in first.mean] == [3] * 6
    video, audio = first.by_medium[0][0]
    assert video is not None
    assert audio is not None
    assert min(video, audio) <= first.mean[0][0] <= max(video, audio)


def test_a_stream_without_sound_has_no_figures_of_sound(model: QwenOmni) -> None:
    found = inspected(model, StreamKind.VIDEO)
    assert (found.recall.audio, found.retention[0].audio) == ((), ())
    assert found.projection is None
    assert found.cosines is not None
    assert list(found.cosines.density) == ["video-video"]
    assert all(audio is None for _, audio in found.maps[0].by_medium[0])


def test_a_clip_without_chunks_is_refused(model: QwenOmni) -> None:
    with pytest.raises(NothingHeld, match="nothing to inspect"):
        Inspector(model, settings()).add(StreamKind.AV, [], [Asked(TEXT)])


def test_everything_is_in_the_json(found: Inspection) -> None:
    told = json.loads(to_json(found))
    assert set(told) == set(Inspection.__dataclass_fields__)
    assert told["maps"][0]["mean"][0] == list(found.maps[0].mean[0])
    assert told["conditions"]["commit"]


def test_other_weights_have_another_fingerprint(model: QwenOmni) -> None:
    assert fingerprint(model) == fingerprint(small_model(layers=6))
    assert fingerprint(model) != fingerprint(small_model(layers=6, seed=1))


def clusters() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pictures along one axis, sounds along another, with a little noise."""
    noise = torch.Generator().manual_seed(1)
    base = 0.01 * torch.randn(80, 6, generator=noise)
    base[:60, 0] += 1.0
    base[60:, 1] += 1.0
    return [(base[:60], base[60:])]


def test_media_in_spaces_of_their_own_are_apart_on_the_first_component() -> None:
    shown = principal(clusters(), 40, 0)
    assert shown is not None
    assert (len(shown.video), len(shown.audio)) == (30, 10)
    video, audio = ({x > 0 for x, _ in points} for points in (shown.video, shown.audio))
    assert len(video) == len(audio) == 1
    assert video != audio
    assert shown.explained[0] > 0.9
    assert principal(clusters(), 40, 0) == shown


def test_cosines_tell_alike_from_unlike() -> None:
    found = cosines(clusters(), 500, 0)
    assert found is not None
    assert found.mean["video-video"] > 0.99
    assert abs(found.mean["audio-video"]) < 0.05
    for values in found.density.values():
        assert sum(values) * 0.02 == pytest.approx(1.0, abs=1e-3)


def test_a_token_is_never_paired_with_itself() -> None:
    found = cosines([(torch.eye(2), torch.zeros(0, 2))], 200, 0)
    assert found is not None
    assert found.mean == {"video-video": 0.0}


def test_an_inspection_is_drawn_also_without_sound(model: QwenOmni, tmp_path: Path) -> None:
    draw(inspected(model, StreamKind.VIDEO), tmp_path / "found.png")
    content = (tmp_path / "found.png").read_bytes()
    assert content.startswith(PNG)
    assert 10_000 < len(content) < 150_000


def test_drawing_without_matplotlib_tells_what_to_install(
    found: Inspection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'omnidrop-stream\[inspect\]'"):
        draw(found, tmp_path / "found.png")


def test_streams_of_the_world_are_asked_a_question_of_each_group() -> None:
    (chunks, asked), _ = world_clips(7, 2, 8)
    assert len(list(chunks)) == 8
    assert 4 <= len(asked) == len({one.kind for one in asked})
    assert {one.kind for one in asked} <= set(QUESTION_KINDS)
