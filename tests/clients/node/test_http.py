"""A node's HTTP: metrics, health, and who may see them."""

from __future__ import annotations

import socket

import httpx
import pytest

from clients.node.http import Health, application, serving
from omnidrop_stream.errors import UsageError


def _app(alive=True, ready=True, token=""):
    async def is_alive() -> Health:
        return Health(alive, () if alive else ("the model thread does not turn",))

    return application(
        metrics=lambda: (b"up 1\n", "text/plain; version=0.0.4"),
        alive=is_alive,
        ready=lambda: Health(ready, () if ready else ("no camera is fresh",)),
        token=token,
    )


async def _get(app, path, **headers):
    async with serving(app, "127.0.0.1", 0) as port, httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port}{path}", headers=headers)


async def test_metrics_are_served_as_the_collector_writes_them():
    answer = await _get(_app(), "/metrics")
    assert (answer.status_code, answer.text) == (200, "up 1\n")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [("/healthz", "alive", "model thread"), ("/readyz", "ready", "no camera")],
)
async def test_an_unwell_node_answers_503_and_says_why(path, kind, words):
    assert (await _get(_app(), path)).status_code == 200
    answer = await _get(_app(**{kind: False}), path)
    assert answer.status_code == 503
    assert words in answer.json()["reasons"][0]


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing"])
async def test_where_a_token_is_set_every_path_asks_for_it(path):
    app = _app(token="geheim-x")
    assert (await _get(app, path)).status_code == 401
    assert (await _get(app, path, authorization="Bearer geheim")).status_code == 401
    right = (await _get(app, path, authorization="Bearer geheim-x")).status_code
    assert right == (404 if path == "/nothing" else 200)


async def test_a_port_that_is_taken_is_told_in_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"http.port = {port}: cannot be had"):
            async with serving(_app(), "127.0.0.1", port):
                pass


async def test_nobody_is_refused_from_the_first_moment_on():
    async with serving(_app(), "127.0.0.1", 0) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass  # the loop has had no turn yet


async def test_the_port_is_free_again_afterwards():
    async with serving(_app(), "127.0.0.1", 0) as port:
        pass
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))
