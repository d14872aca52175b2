"""`omnidrop ask --node`: a real broker, the real service, a node whose answers the test knows."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import warnings

import jsonschema
import pytest

from clients import contract
from clients.cli import main
from clients.mqtt.reading import CODES
from clients.node import remote
from clients.node.asking import Lines
from clients.node.remote import Asked
from clients.node.replies import EXIT_CODES, Reply, read_reply
from omnidrop_stream.errors import Busy, ModelNotFound, NodeError, NothingHeld
from tests.clients.conftest import Ran
from tests.clients.mqtt.broker import Broker
from tests.clients.mqtt.conftest import mqtt_config, serving, until
from tests.clients.mqtt.device import Device
from tests.clients.mqtt.fake_node import FakeNode
from tests.clients.test_contract import ANSWER
from tests.ports import free_port

GROUNDS = "  evidence none | first token 1 ms | retention 100.0% | exact\n"


@pytest.fixture
def node():
    return FakeNode("door", "yard")


@pytest.fixture
async def service(broker: Broker, node, tmp_path):
    async with serving(node, mqtt_config(broker), tmp_path / "journal.db") as service:
        yield service


@pytest.fixture
def omnidrop(capsys, monkeypatch):
    """Run the command beside the test's own loop."""
    monkeypatch.setenv("OMNIDROP_PASSWORD", "lamp-secret")

    async def run(*words):
        code = await asyncio.to_thread(main, ["ask", *map(str, words)])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def ask(omnidrop, broker: Broker):
    return lambda *words: omnidrop(*_to(broker), *words)


def _to(broker, camera="door"):
    return "--node", f"127.0.0.1:{broker.port}", "--user", "lamp", "--camera", camera


def one_sentence(ran: Ran) -> str:
    assert len(ran.err.splitlines()) == 1, ran.err
    assert "Traceback" not in ran.err
    assert "lamp-secret" not in ran.out + ran.err
    return ran.err


async def test_an_answer_is_printed_as_where_a_source_is_read_here(service, ask):
    ran = await ask("one two three")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"[door] one two three\none two three \n{GROUNDS}"


async def test_a_piece_is_printed_before_the_answer_is_whole(service, node, broker, repository):
    node.held = True
    process = await _process(repository, *_to(broker), "one two")
    await _asked(node)
    node.let()
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"[door] one two\n"
        assert await process.stdout.readexactly(4) == b"one "
        node.let(5)
        out, err = await process.communicate()
    assert (out.decode(), err, process.returncode) == (f"two \n{GROUNDS}", b"", 0)


async def test_json_is_what_the_node_sends(service, ask):
    ran = await ask("one two", "--json")
    assert [told["type"] for told in ran.messages] == ["accepted", "delta", "delta", "final"]
    for told in ran.messages:
        jsonschema.validate(told, contract.schema())


async def test_all_cameras_answer_each_in_one_piece(service, omnidrop, broker):
    ran = await omnidrop(*_to(broker, "all"), "one two")
    each = [f"[{name}] one two\none two\n{GROUNDS}" for name in ("door", "yard")]
    assert (ran.code, ran.out) == (0, "".join(each))


async def test_all_cameras_in_json_end_in_a_summary(service, omnidrop, broker):
    ran = await omnidrop(*_to(broker, "all"), "one", "--json")
    assert [told["source"] for told in ran.of("final")] == ["door", "yard"]
    assert ran.messages[-1]["type"] == "summary"


async def test_a_camera_among_all_that_fails_is_named(service, node, omnidrop, broker):
    node.errors["one"] = NothingHeld("nothing yet")
    ran = await omnidrop(*_to(broker, "all"), "one")
    assert ran.code == 5
    assert "question 1 (door): nothing yet" in ran.err
    assert "question 1 (yard): nothing yet" in ran.err


async def test_questions_are_asked_in_order_and_keep_their_conversation(service, node, ask):
    ran = await ask("one", "two", "--session", "evening")
    again = await ask("three", "--session", "evening")
    assert (ran.code, again.code) == (0, 0)
    assert [request.text for _, request in node.asked] == ["one", "two", "three"]
    assert len({request.session for _, request in node.asked}) == 1


async def test_what_a_question_may_say_reaches_the_node(service, node, ask):
    await ask("one", "--max-tokens", "9", "--retention", "25", "--look-back", "5")
    ((camera, request),) = node.asked
    assert (camera, request.max_tokens, request.retention) == ("door", 9, 0.25)
    assert request.look_back_s == 5.0


@pytest.mark.parametrize(
    ("error", "code"), [(NothingHeld("x"), 5), (Busy("x"), 5), (ModelNotFound("x"), 4)]
)
async def test_a_failure_of_the_node_has_the_exit_code_it_has_here(service, node, ask, error, code):
    node.errors["fail"] = error
    ran = await ask("fail", "one")
    assert ran.code == code
    assert one_sentence(ran) == "omnidrop: question 1: x\n"
    assert "[door] one\n" in ran.out


def test_every_code_of_the_contract_has_an_exit_code():
    assert set(EXIT_CODES) == set(CODES)


async def test_an_unknown_camera_is_told_with_those_that_there_are(service, omnidrop, broker):
    ran = await omnidrop(*_to(broker, "cellar"), "one", "--json")
    assert ran.code == 2
    assert "no camera called 'cellar'; known are: door, yard" in one_sentence(ran)
    assert ran.messages[0]["code"] == "unknown_camera"


async def test_without_a_broker_it_says_so_at_once(omnidrop):
    ran = await omnidrop("--node", f"127.0.0.1:{free_port()}", "--camera", "door", "one")
    assert ran.code == 3
    assert "no broker answers at 127.0.0.1:" in one_sentence(ran)


async def test_a_wrong_password_is_named_and_not_shown(broker, omnidrop, tmp_path):
    secret = tmp_path / "pw"
    secret.write_text("wrong-secret\n")
    ran = await omnidrop(*_to(broker), "--password-file", secret, "one")
    assert ran.code == 3
    assert "refuses 'lamp': [code:135] Not authorized" in one_sentence(ran)
    assert "wrong-secret" not in ran.err


async def test_a_broker_with_an_unknown_certificate_is_not_trusted(broker, omnidrop):
    place = f"mqtts://127.0.0.1:{broker.tls_port}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # paho leaves the refused socket to gc
        ran = await omnidrop("--node", place, "--user", "lamp", "--camera", "door", "one")
        gc.collect()
    assert ran.code == 3
    assert "--tls-ca-file" in one_sentence(ran)


async def test_a_broker_with_a_known_certificate_is_asked(service, broker, omnidrop):
    place = f"127.0.0.1:{broker.tls_port}"
    ca = broker.folder / "ca.crt"
    words = ("--node", place, "--tls-ca-file", ca, "--user", "lamp", "--camera", "door", "one")
    assert (await omnidrop(*words)).code == 0


async def test_a_prefix_under_which_nobody_answers_is_named(service, ask, monkeypatch):
    monkeypatch.setattr(remote, "TAKEN_S", 0.2)
    ran = await ask("one", "--prefix", "home")
    assert ran.code == 3
    assert "under the prefix 'home': there is no home/node/status" in one_sentence(ran)


async def test_a_node_that_has_gone_is_told_before_anything_is_sent(
    broker, node, tmp_path, ask, omnidrop
):
    async with serving(node, mqtt_config(broker), tmp_path / "journal.db"):
        assert (await ask("one")).code == 0
    ran = await ask("one")
    assert ran.code == 3
    assert "the node 'omnidrop' on the broker at" in one_sentence(ran)
    assert "is offline" in ran.err


async def test_the_nodes_deadline_is_the_time_that_is_given(service, node, ask):
    node.held = True
    ran = await ask("one", "--timeout", "0.3", "--json")
    assert ran.code == 5
    assert ran.of("error")[0]["code"] == "expired"


async def test_a_node_that_falls_silent_ends_in_exit_code_5(
    broker, node, tmp_path, ask, monkeypatch
):
    monkeypatch.setattr(remote, "GRACE_S", 0.0)
    node.held = True
    async with serving(node, mqtt_config(broker), tmp_path / "journal.db") as service:
        asking = asyncio.create_task(ask("one", "--timeout", "0.6"))
        await until(lambda: bool(node.asked))
        await service.answering.drain(0)
        ran = await asking
    assert ran.code == 5
    assert "no answer within 0.6 s" in one_sentence(ran)


async def test_a_broker_that_restarts_in_mid_answer_costs_time_only(
    node, needs_mosquitto, tmp_path, omnidrop
):
    broker = Broker(tmp_path / "broker")
    broker.start()
    node.held = True
    try:
        async with serving(node, mqtt_config(broker), tmp_path / "journal.db") as service:
            asking = asyncio.create_task(omnidrop(*_to(broker), "one two"))
            await until(lambda: bool(node.asked))
            node.let()
            await asyncio.to_thread(broker.stop, signal.SIGKILL)
            await until(lambda: service.state == "offline")
            broker.start()
            await until(service.online.is_set)
            node.let(5)
            ran = await asking
    finally:
        broker.stop()
    assert (ran.code, len(node.asked)) == (0, 1)
    assert ran.out.endswith(f"{GROUNDS}")
    assert "one two" in ran.out.splitlines()[-2]


async def test_ctrl_c_cancels_the_question_at_the_node(
    interruptible, service, node, broker, repository
):
    node.held = True
    process = await _process(repository, *_to(broker), "one two")
    await _asked(node)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"omnidrop: interrupted\n")
    await until(lambda: not node.running)
    assert service.intake._stats.counter("mqtt.ended.final") == 1


async def _process(repository, *words):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clients.cli", "ask", *words),
        cwd=repository,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OMNIDROP_PASSWORD": "lamp-secret"},
    )


async def _asked(node):
    await until(lambda: bool(node.running), 20)


async def test_asking_a_node_needs_no_torch(repository):
    code = "import sys, clients.node.asking; sys.exit('torch' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=repository)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--node", "h", "one"], "--node needs --camera"),
        (["--node", "h", "--camera", "Door", "one"], "--camera = 'Door' is not allowed"),
        (["--node", "h", "--camera", "door"], "there is no question"),
        (["--node", "h", "--camera", "door", "demo:", "one"], "'demo:' is a source"),
        (["--node", "h", "--camera", "door", "rtsp://c/1", "one"], "is a source"),
        (["--node", "h:0", "--camera", "door", "one"], "--node = 'h:0' is not allowed"),
        (["--node", "h h", "--camera", "door", "one"], "write it HOST or HOST:PORT"),
        (["--node", "me:hunter2@h", "--camera", "door", "one"], "it holds a login; use --user"),
        (["--node", "h", "--camera", "door", "--at", "2", "one"], "--at is for a source"),
        (["--node", "h", "--camera", "door", "--model", "tiny", "one"], "--model is for a source"),
        (["--node", "h", "--camera", "door", "--no-wait", "one"], "--wait is for a source"),
        (["--node", "h", "--camera", "door", "--timeout", "0", "one"], "--timeout = 0 is not"),
        (["--node", "h", "--camera", "door", "--look-back", "nan", "one"], "--look-back = nan"),
        (["--node", "h", "--camera", "door", "--retention", "0.3", "one"], "give percent"),
        (["--node", "h", "--camera", "door", "--max-tokens", "0", "one"], "--max-tokens = 0"),
        (["--node", "h", "--camera", "door", "--prefix", "a/#", "one"], "--prefix = 'a/#'"),
        (["--node", "h", "--camera", "door", "--user", "a/b", "one"], "--user = 'a/b' cannot"),
        (["demo:", "one", "--camera", "door"], "--camera is about a running node"),
        (["demo:", "one", "--look-back", "5"], "--look-back is about a running node"),
        (["demo:", "one", "--timeout", "5"], "--timeout is about a running node"),
        (["demo:", "one", "--prefix", "home"], "--prefix is about a running node"),
    ],
)
async def test_a_mix_of_both_ways_is_one_sentence(omnidrop, words, said):
    ran = await omnidrop(*words)
    assert ran.code == 2
    assert said in one_sentence(ran)
    assert "hunter2" not in ran.err


def test_pieces_that_were_lost_are_made_up_for_by_the_final(capsys):
    screen, asked = Lines("door", quiet=False, verbose=False), Asked(1, "What?", "x")
    for seq, text in ((0, "one "), (2, "three ")):
        screen.reply(asked, Reply(type="delta", id="x", seq=seq, text=text), "")
    final = Reply(type="final", id="x", text="one two three", source="door", label="exact")
    screen.reply(asked, final, "")
    assert capsys.readouterr().out.splitlines()[1] == "one two three"


def test_an_answer_begun_anew_after_a_crash_is_printed_whole(capsys):
    screen, asked = Lines("door", quiet=False, verbose=False), Asked(1, "What?", "x")
    screen.reply(asked, Reply(type="delta", id="x", seq=0, text="red"), "")
    screen.reply(asked, Reply(type="final", id="x", text="blue", label="exact"), "")
    assert capsys.readouterr().out.splitlines()[1:3] == ["red", "blue"]


def test_what_a_camera_did_not_show_is_told_beside_its_answer(capsys):
    screen, asked = Lines("door", quiet=False, verbose=False), Asked(1, "What?", "x")
    told = contract.final(ANSWER, "door", 0.0) | {"text": "red", "staleness_s": 9.0}
    told["coverage"] = {
        "from_s": 0.0,
        "to_s": 54.0,
        "gaps": [{"from_s": 34.0, "to_s": 54.0, "reason": "video_absent"}],
    }
    reply, line = read_reply(json.dumps(told).encode())
    screen.reply(asked, reply, line)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("| exact | no pictures 00:34-00:54 | saw nothing after 00:54")


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"[]", b'{"type":"final","ttft_ms":NaN}', b'{"type":"x"}', b"[" * 100_000],
)
def test_what_is_no_message_of_a_node_is_refused(payload):
    with pytest.raises(NodeError, match="no message of an OmniDrop node"):
        read_reply(payload)


def test_a_line_of_json_stays_one_line():
    _, line = read_reply(json.dumps({"type": "delta", "text": "a\n\u2028\x1b"}).encode())
    assert line.isascii()
    assert line.isprintable()


async def test_control_characters_of_an_answer_never_reach_the_terminal(broker, ask):
    """Another program answers in the node's place."""
    async with Device(broker.port, "omnidrop", "node-secret") as bad:
        await bad.listen("omnidrop/door/query/#")
        await bad.send("omnidrop/node/status", "online", retain=True)
        asking = asyncio.create_task(ask("one"))
        await bad.until(lambda: bool(bad.came))
        given = bad.came[0].properties.json()
        final = {"v": 1, "type": "final", "id": None, "text": "\x1b[2J", "label": "\x1b"}
        correlation = bytes.fromhex(given["CorrelationData"])
        final["id"] = correlation.decode()
        await bad.send(given["ResponseTopic"], final, correlation=correlation)
        ran = await asking
        await bad.send("omnidrop/node/status", b"", retain=True)
    assert ran.code == 0
    assert "\x1b" not in ran.out
