"""Who asks, looked at quickly: the slow look is the oracle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clients.mqtt.messages import Incoming
from clients.mqtt.requests import early_owner, early_route
from clients.mqtt.topics import Command, Topics

TOPICS = Topics("site/eye", ("devices/+/",))


@given(
    rest=st.sampled_from(["", "lamp", "bad name"]),
    reply_to=st.sampled_from(
        ["", "devices/lamp/x", "devices/bell/x", "site/eye/door/answer/1", "other/x"]
    ),
    client=st.sampled_from([None, "lamp", "bad name"]),
)
def test_the_quick_look_at_who_asks_finds_whom_the_whole_one_finds(
    rest: str, reply_to: str, client: str | None
):
    named = () if client is None else (("client", client),)
    command = Command("d", "query", rest)
    message = Incoming(
        "site/eye/d/query", b"{}", 1, False, lambda: None, reply_to, properties=named
    )
    found, whole = early_owner(message, command, TOPICS), early_route(message, command, TOPICS)
    assert found == whole[0] or whole[1] is None  # the whole one refuses the bad name before
