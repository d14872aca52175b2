"""On a device that has to warm up one question is asked before the first real one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.model.qwen_omni import QwenOmni, Ways
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import StreamKind
from omnidrop_stream.warming import warm_up
from omnidrop_stream.watch_config import WatchConfig
from tests.helpers import ENGINES, settings, small_model
from tests.pretend_device import pretended, sent
from tests.recorder import Recorder
from tests.watches import watching_model

HOW = {"stream": {"frame_tokens": 24}, "pruning": {"retention": 0.5}}


def elsewhere(engine, make=small_model):
    """A model on the pretended device that says so and would end every answer early, and what
    records its steps.
    """
    plain, recorder = make(engine=engine, seed=1, layers=4), Recorder(there=True)
    sent(plain.thinker)
    spec = replace(plain.spec, device="meta", eos_ids=tuple(range(plain.spec.vocabulary // 2)))
    return QwenOmni(plain.thinker, plain.tokenizer, spec, Ways(engine, capture=recorder)), recorder


@pytest.mark.parametrize("kind", list(StreamKind))
@pytest.mark.parametrize("engine", ENGINES)
def test_every_kind_of_stream_is_asked_until_its_steps_are_recorded(engine, kind):
    how = settings(**{**HOW, "stream": {**HOW["stream"], "kind": kind}})
    with pretended():
        model, recorder = elsewhere(engine)
        assert warm_up(model, how)
    # Of pictures alone too few come for any layer to drop one: that is full depth.
    full = kind is StreamKind.VIDEO
    assert (recorder.records, recorder.replays) == ((4, 7) if full else (1, 2))


@pytest.mark.parametrize("kind", list(StreamKind))
@pytest.mark.parametrize("engine", ENGINES)
def test_a_standing_question_is_asked_until_its_pass_is_recorded(engine, kind):
    how = settings(**{**HOW, "stream": {**HOW["stream"], "kind": kind}})
    with pretended():
        model, recorder = elsewhere(engine, watching_model)
        assert warm_up(model, how)
    full = kind is StreamKind.VIDEO
    assert (recorder.records, recorder.replays) == ((5, 8) if full else (2, 3))


@pytest.mark.parametrize("engine", ENGINES)
def test_at_full_depth_a_question_is_asked_until_its_pass_is_recorded(engine):
    how = settings(**{**HOW, "stream": {**HOW["stream"], "prefill_depth": "read_side"}})
    with pretended():
        model, recorder = elsewhere(engine)
        assert warm_up(model, how)
    # Of each of three answers the step; of the third the pass.
    assert (recorder.records, recorder.replays) == (4, 7)


def test_what_only_a_standing_question_lacks_does_not_count():
    """Nobody has put one."""
    long = {"watches": {"template": "{watch} " + "really? " * 400}}
    with pretended():
        model, _ = elsewhere("plain", watching_model)
        model_spec = replace(model.spec, max_positions=2000)
        model = QwenOmni(model.thinker, model.tokenizer, model_spec, model.ways)
        how = settings(**{**HOW, "stream": {**HOW["stream"], **long}})
        with pytest.raises(ConfigError):
            OmniStream(model, how).standing(WatchConfig(text="the door opens"))
        assert warm_up(model, how)


def test_limits_that_are_too_low_for_it_do_not_count():
    with pretended():
        model, recorder = elsewhere("plain")
        assert warm_up(model, settings(**HOW, decode={"max_tokens": 1, "question_chars": 3}))
    assert recorder.records == 1


def test_a_processor_needs_none():
    assert not warm_up(small_model(seed=1, layers=4), settings(**HOW))
