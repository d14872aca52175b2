"""The node's log lines, and what must never be in them."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from clients.node.logs import set_up


@pytest.fixture
def log(request):
    """What was logged, as text; the process's logging is put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    set_up("debug", json_lines=getattr(request, "param", True), stream=stream)
    yield stream
    root.handlers[:], level = before[0], before[1]
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_line_is_one_json_object_with_level_time_and_event(log):
    structlog.get_logger().info("camera is live", camera="door")
    line = json.loads(log.getvalue())
    assert (line["event"], line["camera"], line["level"]) == ("camera is live", "door", "info")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("log", [True, False], indirect=True)
def test_a_login_in_any_value_is_hidden(log):
    structlog.get_logger().info("x", url="rtsp://me:s3cret@cam/1", more={"a": ["u:s3cret@cam"]})
    structlog.get_logger().info("x", password="s3cret", mqtt_token="s3cret")
    logging.getLogger("paho").warning("cannot reach %s", "mqtt://me:s3cret@host")
    assert "s3cret" not in log.getvalue()
    assert "cam" in log.getvalue()


@pytest.mark.parametrize("log", [True, False], indirect=True)
def test_a_login_in_a_traceback_is_hidden(log):
    try:
        raise OSError("rtsp://me:s3cret@cam/1 failed")
    except OSError:
        structlog.get_logger().exception("unexpected")
        logging.getLogger("other").exception("unexpected")
    assert log.getvalue().count("OSError") >= 2
    assert "s3cret" not in log.getvalue()


@pytest.mark.parametrize("log", [True, False], indirect=True)
def test_text_can_neither_break_a_line_nor_drive_a_terminal(log):
    structlog.get_logger().info("a\nb\x1b[2J", text="\u2028\x1b[2J")
    assert len(log.getvalue().splitlines()) == 1
    assert "\x1b" not in log.getvalue()
