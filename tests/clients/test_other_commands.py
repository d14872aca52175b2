"""``omnidrop doctor``, ``demo``, ``bench`` and the bare command."""

from __future__ import annotations

import importlib.util
import re
import sys
import types

import pytest
import typer

from clients.counted import counted
from runtime import health
from runtime.models import EMBEDDED_FOLDER, default_model
from tests.clients.conftest import Omnidrop


def test_the_bare_command_shows_its_help(omnidrop: Omnidrop) -> None:
    ran = omnidrop()
    assert ran.code == 0
    assert all(name in ran.out for name in ("ask", "demo", "doctor", "bench"))


GROUPS = ("bench", "benchmark", "config", "world")


@pytest.mark.parametrize("words", [(), *((group,) for group in GROUPS)])
def test_the_help_tells_of_every_command_in_a_whole_line(
    omnidrop: Omnidrop, words: tuple[str, ...]
) -> None:
    told = omnidrop(*words, "--help").out.partition("Commands:")[2]
    assert told.count("\n") > 1
    assert "..." not in told


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_without_a_command_shows_its_help(omnidrop: Omnidrop, group: str) -> None:
    ran = omnidrop(group)
    assert ran.code == 0
    assert ran.out == omnidrop(group, "--help").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("evall",), "No such command 'evall'. Did you mean 'eval'? See omnidrop --help."),
        (("hlep",), "No such command 'hlep'. Did you mean omnidrop --help?"),
        (("ask", "demo", "hi"), "the source of that name is written with a colon: demo:"),
        (("ask", "demo:", "hi", "-q", "-v"), "-q and -v say the opposite of each other"),
    ],
)
def test_a_slip_of_the_pen_is_told_with_what_was_meant(
    omnidrop: Omnidrop, words: tuple[str, ...], said: str
) -> None:
    ran = omnidrop(*words)
    assert ran.code == 2
    assert said in ran.err


def test_one_is_not_told_as_many() -> None:
    assert [counted(number, "clip") for number in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]


def test_the_version_is_that_of_the_package(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.2.3")
    assert omnidrop("--version").out == "omnidrop 1.2.3\n"


def test_doctor_finds_a_working_core(omnidrop: Omnidrop) -> None:
    ran = omnidrop("doctor")
    assert ran.code == 0
    assert ran.out.splitlines()[-1].startswith("The core works")


def test_doctor_tells_in_json_what_mends_what(omnidrop: Omnidrop) -> None:
    (report,) = omnidrop("doctor", "--json").messages
    checks = {check["name"]: check for check in report["checks"]}
    assert (report["v"], report["type"], report["ok"]) == (1, "doctor", True)
    assert {"Python", "torch", "CUDA device", "microphone", "embedded model"} <= set(checks)
    assert all(bool(check["mend"]) == (check["state"] != "ok") for check in checks.values())


def test_doctor_names_a_missing_core_package_and_its_code(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "transformers" else find(name)
    )
    ran = omnidrop("doctor")
    assert ran.code == 6
    assert re.search(r"^missing +transformers\n +-> pip install", ran.out, re.MULTILINE)


def test_doctor_survives_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    sound = next(check for check in health.survey() if check.name == "microphone")
    assert sound.state == "optional"
    assert "libportaudio2" in sound.mend


def test_doctor_tells_how_to_get_smaller_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "torchao" else find(name)
    )
    small = next(check for check in health.survey() if check.name.startswith("torchao"))
    assert small.state == "optional"
    assert "pip install 'omnidrop-stream[small]'" in small.mend


def test_the_default_model_is_embedded_where_its_weights_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from omnidrop_stream.model.load import EMBEDDED

    assert EMBEDDED == EMBEDDED_FOLDER
    monkeypatch.setattr("runtime.models.EMBEDDED_FOLDER", tmp_path)
    assert default_model() == "tiny"
    (tmp_path / "config.json").write_text("{}")
    assert default_model() == "embedded"


def test_bench_is_handed_its_own_arguments(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    app = typer.Typer()

    @app.command()
    def latency(chunks: int = 0) -> int:
        heard.append(f"latency {chunks}")
        return 0

    @app.command()
    def other() -> None:
        pass

    module = types.ModuleType("clients.bench")
    module.app = app
    module.__spec__ = importlib.util.spec_from_loader("clients.bench", None)
    monkeypatch.setitem(sys.modules, "clients.bench", module)
    assert omnidrop("bench", "latency", "--chunks", "8").code == 0
    assert heard == ["latency 8"]


def test_a_mistake_in_bench_is_told_like_any_other(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("clients.bench")
    module.app = typer.Typer()
    module.app.command()(lambda: None)
    module.__spec__ = importlib.util.spec_from_loader("clients.bench", None)
    monkeypatch.setitem(sys.modules, "clients.bench", module)
    ran = omnidrop("bench", "--bogus")
    assert ran.code == 2
    assert ran.err.startswith("omnidrop: No such option: --bogus")
