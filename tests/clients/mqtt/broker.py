"""A real Mosquitto as a child process, with the shipped configuration or the broker's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.ports import free_port

PROGRAM = "/usr/sbin/mosquitto"
ACCOUNTS = {
    "omnidrop": "node-secret",
    "lamp": "lamp-secret",
    "bell": "bell-secret",
    "homeassistant": "ha-secret",
}


def make_certificates(folder: Path) -> None:
    """A CA and a server certificate for localhost."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes", "-keyout")
    openssl("req", "-x509", *new, "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test ca")
    openssl("req", *new, "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san")
    openssl("x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt", "-days", "2")


class Broker:
    """``port`` without TLS on this machine, ``tls_port`` as shipped."""

    def __init__(self, folder: Path, shipped: bool = True, without: str = "") -> None:
        """without: beginning of a line of the configuration that is left out."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.tls_port = free_port()
        self.shipped = shipped
        self._process: subprocess.Popen[bytes] | None = None
        lines = self._shipped() if shipped else self._default()
        if os.geteuid() == 0:
            lines.insert(0, "user root")  # else it gives up root and cannot read its files
        kept = [line for line in lines if not (without and line.startswith(without))]
        (folder / "test.conf").write_text("\n".join(kept) + "\n")

    def _shipped(self) -> list[str]:
        """The file under configs/, with this folder's paths and one listener more."""
        make_certificates(self.folder)
        for number, (user, password) in enumerate(ACCOUNTS.items()):
            create = ["-c"] if number == 0 else []
            command = ["mosquitto_passwd", "-b", *create, "passwd", user, password]
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
            os.chmod(self.folder / "passwd", 0o600)
        text = (REPOSITORY / "configs" / "mosquitto.conf").read_text()
        acl = (REPOSITORY / "configs" / "mosquitto.acl").read_text()
        (self.folder / "mosquitto.acl").write_text(acl)
        os.chmod(self.folder / "mosquitto.acl", 0o600)
        text = text.replace("/mosquitto/config/", f"{self.folder}/")
        text = text.replace("/mosquitto/data/", f"{self.folder}/")
        text = text.replace("listener 8883", f"listener {self.tls_port} 127.0.0.1")
        return [*text.splitlines(), f"listener {self.port} 127.0.0.1"]

    def _default(self) -> list[str]:
        """What Debian's package starts with: persistence, saved every 30 minutes and at the end."""
        return [
            "persistence true",
            f"persistence_location {self.folder}/",
            "allow_anonymous true",
            f"listener {self.port} 127.0.0.1",
        ]

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [PROGRAM, "-c", str(self.folder / "test.conf")],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        log.close()
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.01)
        raise AssertionError("the broker does not listen")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(10)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")
