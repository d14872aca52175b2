"""What systemd is told."""

from __future__ import annotations

import socket

import pytest

from clients.node.systemd import Notifier


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(5)
        yield line, str(tmp_path / "notify")


def test_ready_alive_and_stopping_reach_the_service_manager(manager):
    line, path = manager
    notifier = Notifier({"NOTIFY_SOCKET": path})
    notifier.ready("2 cameras")
    notifier.alive("2 live")
    notifier.stopping()
    told = [line.recv(200).decode() for _ in range(3)]
    assert told == ["READY=1\nSTATUS=2 cameras", "WATCHDOG=1\nSTATUS=2 live", "STOPPING=1"]


def test_the_watchdog_hears_of_us_twice_within_its_patience():
    assert Notifier({"WATCHDOG_USEC": "30000000"}).every_s == 15
    assert Notifier({}).every_s is None


def test_without_systemd_nothing_happens():
    Notifier({}).ready("x")


def test_a_manager_that_is_gone_disturbs_nobody(tmp_path):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive("x")
