"""Whose ``P/node/info`` is retained: an earlier run's, or another node's."""

from __future__ import annotations

import json

import pytest

from clients.mqtt.claim import Claim
from clients.mqtt.messages import Incoming
from clients.mqtt.outbox import ONCE_MORE_S

TOPIC = "omnidrop/node/info"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def claim(clock: Clock) -> Claim:
    return Claim(TOPIC, "own", clock)


def info(instance: str, topic: str = TOPIC) -> Incoming:
    return Incoming(topic, json.dumps({"instance": instance}).encode(), 1, True, lambda: None)


def test_what_an_earlier_run_left_is_no_other_node(claim: Claim):
    assert not claim.taken([info("earlier")])


def test_an_earlier_runs_info_is_none_either_when_ours_never_arrived(claim: Claim):
    claim.taken([info("earlier")])
    claim.disconnected()
    assert not claim.taken([info("earlier")])


def test_a_broker_that_forgot_what_it_had_just_confirmed_is_no_other_node(
    claim: Claim, clock: Clock
):
    claim.taken([info("earlier")])
    claim.confirmed()
    clock.now_s += ONCE_MORE_S / 2
    claim.disconnected()
    assert not claim.taken([info("earlier")])


def test_a_new_node_is_seen_even_before_ours_had_arrived(claim: Claim):
    claim.taken([info("earlier")])
    claim.disconnected()
    assert claim.taken([info("other")])


def test_once_ours_has_stood_whatever_replaced_it_is_another_node(claim: Claim, clock: Clock):
    claim.taken([info("earlier")])
    claim.confirmed()
    clock.now_s += ONCE_MORE_S
    claim.disconnected()
    assert claim.taken([info("earlier")])


def test_our_own_and_other_topics_mean_nothing(claim: Claim, clock: Clock):
    claim.taken([])
    claim.confirmed()
    clock.now_s += ONCE_MORE_S
    claim.disconnected()
    assert not claim.taken([info("own"), info("other", "omnidrop/door/status")])


def test_after_standing_aside_what_the_other_left_is_an_earlier_runs(claim: Claim):
    claim.taken([])
    assert claim.taken([info("other")])
    claim.given_up()
    assert not claim.taken([info("other")])


def test_what_is_no_json_was_not_written_by_us(claim: Claim):
    claim.taken([])
    assert claim.taken([Incoming(TOPIC, b"{", 1, True, lambda: None)])
