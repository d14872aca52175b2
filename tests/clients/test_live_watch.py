"""Standing questions at the live assistant: /watch, --watch, and what is shown of an event."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from clients import contract
from clients.live_commands import Command, parse_command
from clients.live_watch import WatchCommand, happened, listed, obey_watch, parse_watch, watch_of
from clients.terminal import make_printer
from omnidrop_stream.errors import Busy, ConfigError, UsageError
from omnidrop_stream.types import Evidence
from omnidrop_stream.watch_config import WatchConfig
from runtime.session import StreamSession
from runtime.watch_types import Happened, KeyFrame, WatchEvent, WatchStage, WatchState
from tests.clients.conftest import Omnidrop, Ran
from tests.clients.test_contract import ANSWER
from tests.clients.test_live_screen import terminal
from tests.helpers import settings
from tests.runtime.test_watching import FAST, NEVER
from tests.watches import watching_model

EVENT = WatchEvent(
    id="w1",
    seq=2,
    text="a bell rings",
    time_s=84.0,
    from_s=80.0,
    wall_s=1_700_000_000.25,
    confidence=0.97213,
    odds=3.5504,
    baseline=0.0,
    evidence=(Evidence(82.0, 84.0, "audio", 0.61),),
    key_frame=KeyFrame(82.5, b"\xff\xd8\xff"),
)
STATE = WatchState("w1", "a bell rings", True, WatchStage.WATCHING, "", 2, 3.55, 0.0, 12.3)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("/watch a bell rings", WatchCommand("add", "a bell rings")),
        ("/watch  sound: a bell", WatchCommand("add", "sound: a bell")),
        ("/watch", WatchCommand("list")),
        ("/watch list", WatchCommand("list")),
        ("/watch list of names is read", WatchCommand("add", "list of names is read")),
        ("/watch remove 2", WatchCommand("remove", "w2")),
        ("/watch remove door", WatchCommand("remove", "door")),
    ],
)
def test_what_stands_behind_watch(typed: str, meant: WatchCommand) -> None:
    command = parse_command(typed)
    assert isinstance(command, Command)
    assert parse_watch(str(command.value)) == meant


@pytest.mark.parametrize("typed", ["/watch remove", "/watch remove 1 2"])
def test_removing_without_a_number_is_refused(typed: str) -> None:
    with pytest.raises(UsageError, match="such as /watch remove 1"):
        parse_command(typed)


def test_sound_in_front_judges_by_sound_alone() -> None:
    by_sound, plain = watch_of("Sound: a bell rings"), watch_of("a bell rings")
    assert (by_sound.text, by_sound.sound_only) == ("a bell rings", True)
    assert (plain.text, plain.sound_only) == ("a bell rings", False)


@pytest.mark.parametrize("text", ["sound:", "x" * 501])
def test_words_that_cannot_be_watched_for_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"/watch: text"):
        watch_of(text)


def test_an_event_is_one_line_with_time_confidence_and_evidence() -> None:
    line = "[01:24] w1 a bell rings: 97% | evidence 01:22-01:24 audio 0.61"
    assert happened(EVENT) == [line]


def test_the_answer_to_a_follow_up_is_a_second_line() -> None:
    lines = happened(replace(EVENT, answer=ANSWER))
    assert len(lines) == 2
    assert lines[1].startswith("   ¿Qué? tab here")
    assert "\x1b" not in lines[1]
    lines = happened(replace(EVENT, problem="it took too long"))
    assert lines[1] == "   no answer: it took too long"


def test_a_list_tells_stage_count_odds_and_cost() -> None:
    line = (
        "w1 a bell rings (by sound): watching, told 2 times, odds +3.5 (usual +0.0), 12 ms a chunk"
    )
    assert listed([STATE]) == [line]
    assert "Nothing is watched for" in listed([])[0]


def test_an_event_of_the_contract_fits_the_schema_and_holds_the_picture() -> None:
    valid = jsonschema.Draft202012Validator(contract.schema())
    message = contract.event(replace(EVENT, answer=ANSWER), "demo:")
    valid.validate(message)
    valid.validate(contract.event(replace(EVENT, key_frame=None), "demo:"))
    assert base64.b64decode(message["key_frame"]["data"]) == b"\xff\xd8\xff"
    assert message["at"] == "2023-11-14T22:13:20.250Z"
    assert set(message) == set(contract.schema()["$defs"]["event"]["required"])
    assert not valid.is_valid({**message, "mood": "good"})


def test_printers_show_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    make_printer(quiet=True).show(Happened(EVENT, "demo:"))
    plain = capsys.readouterr().out
    make_printer(json=True, quiet=True).show(Happened(EVENT, "demo:"))
    assert plain == "[01:24] w1 a bell rings: 97% | evidence 01:22-01:24 audio 0.61\n"
    assert capsys.readouterr().out == contract.line(contract.event(EVENT, "demo:")) + "\n"


async def unsaid(text: str) -> None:
    raise AssertionError(text)


class SlowWatching:
    """Adds when it is let, or refuses."""

    def __init__(self, refusal: Busy | None = None) -> None:
        self.let = asyncio.Event()
        self._refusal = refusal

    async def add(self, watch: WatchConfig) -> WatchState:
        await self.let.wait()
        if self._refusal is not None:
            raise self._refusal
        return STATE


async def test_a_watch_that_takes_a_moment_to_add_says_so_at_once() -> None:
    watching, told = SlowWatching(), []

    async def say(text: str) -> None:
        told.append(text)
        watching.let.set()

    command = WatchCommand("add", "a red circle")
    async with asyncio.timeout(20):
        await obey_watch(watching, command, say, patience_s=0.0)  # type: ignore[arg-type]
    assert told == ["/watch a red circle: learning what is usual from what is held"]


async def test_a_watch_that_cannot_be_carried_is_named() -> None:
    watching = SlowWatching(Busy("the model cannot carry one more"))
    watching.let.set()
    command = WatchCommand("add", "a red circle")
    with pytest.raises(Busy, match=r"^/watch a red circle: the model cannot carry one more"):
        await obey_watch(watching, command, unsaid)  # type: ignore[arg-type]


async def test_watch_adds_lists_and_removes() -> None:
    config = settings(**FAST)
    async with (
        asyncio.timeout(20),
        StreamSession("demo:?seconds=5", config, realtime=False, load=watching_model) as session,
    ):
        await session.drained()
        added = await obey_watch(session.watching, WatchCommand("add", "sound: a bell"), unsaid)
        assert added[0].startswith("w1: watching for a bell (by sound) (learning, ")
        assert added[0].endswith(
            " ms for each chunk); the first 7 chunks (14 s) tell what is usual, and nothing is "
            "told before"
        )
        await session.watching.add(NEVER, "door")
        shown = await obey_watch(session.watching, WatchCommand("list"), unsaid)
        assert "the first 7 chunks (14 s) tell what is usual" in shown[0]
        assert [line.split()[0] for line in shown] == ["w1", "door"]
        gone = await obey_watch(session.watching, WatchCommand("remove", "w1"), unsaid)
        assert gone == ["w1 is not watched for any more"]
        with pytest.raises(UsageError, match="no standing question w1; there are: door"):
            await obey_watch(session.watching, WatchCommand("remove", "w1"), unsaid)


async def test_at_the_terminal_an_event_stands_above_the_line() -> None:
    async with terminal(watching_model()) as t:
        await t.desk.opened()
        t.type("/watch the door opens\r")
        await t.sees("w1: watching for the door opens")
        await t.screen.show(Happened(EVENT, "gated"))
        await t.sees("[01:24] w1 a bell rings: 97% | evidence 01:22-01:24 audio 0.61")
        t.type("/watch remove 7\r")
        await t.sees("there is no standing question w7; there are: w1")


# -- the command


@pytest.fixture
def always(tmp_path: Path) -> Path:
    """A configuration with a watch that even a model that denies it finds at once."""
    watch = {"text": "a red circle", "floor": -50.0, "learn": 0}
    path = tmp_path / "watch.yaml"
    path.write_text(yaml.safe_dump({"stream": {"watches": {"questions": [watch]}}}))
    return path


def live(omnidrop: Omnidrop, *rest: str | Path) -> Ran:
    return omnidrop("live", "demo:?seconds=5", "--fast", "--max-tokens", "4", *rest)


def test_an_event_is_a_json_line_and_the_run_waits_for_it(omnidrop: Omnidrop, always: Path) -> None:
    ran = live(omnidrop, "--config", always, "--json", "--model", "embedded")
    valid = jsonschema.Draft202012Validator(contract.schema())
    for message in ran.messages:
        valid.validate(message)
    assert ran.code == 0
    event = ran.of("event")[0]
    assert (event["watch"], event["seq"]) == ("a red circle", 1)
    assert event["source"].startswith("demo:")
    assert base64.b64decode(event["key_frame"]["data"]).startswith(b"\xff\xd8\xff")


def test_watches_of_the_command_line_come_behind_those_of_the_file(
    omnidrop: Omnidrop, always: Path
) -> None:
    flags = ("--watch", "a bell", "--watch", "sound: a dog")
    ran = live(omnidrop, "--config", always, "--model", "embedded", *flags)
    assert "w1 a red circle: waiting" in ran.err
    assert "w2 a bell: waiting" in ran.err
    assert "w3 a dog (by sound): waiting" in ran.err
    assert "w1 a red circle: " in ran.out
    assert ran.code == 0


def test_a_model_that_cannot_judge_is_told_and_the_run_fails(omnidrop: Omnidrop) -> None:
    ran = live(omnidrop, "--model", "tiny", "--watch", "a bell")
    assert "no single token for 'yes'" in ran.err
    assert ran.code == 4


def test_more_watches_than_allowed_are_refused_before_anything_is_opened(
    omnidrop: Omnidrop,
) -> None:
    ran = live(
        omnidrop, "--model", "tiny", *(part for n in range(9) for part in ("--watch", f"{n}"))
    )
    assert "there are 9 standing questions" in ran.err
    assert ran.code == 2


def test_watch_can_be_typed(omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "/watch sound: a bell\n/watch list\n/watch remove 1\n/watch remove 1\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    ran = live(omnidrop, "--model", "embedded", "--ask", "-")
    assert "w1: watching for a bell (by sound)" in ran.out
    assert "w1 is not watched for any more" in ran.out
    assert "there is no standing question w1" in ran.err
    assert ran.code == 2
