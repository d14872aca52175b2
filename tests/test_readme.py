"""Every command and snippet of the README runs; transcripts have the shape of what comes."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from clients import contract
from clients.cli import app, main
from clients.node.config import load_node_config
from omnidrop_stream import errors
from omnidrop_stream.config import make_config
from omnidrop_stream.world.known import is_known
from runtime.media import write_mp4
from tests.runtime.conftest import grey_frames, tone

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(README) if name == language]


COMMANDS = [line for body in blocks("sh") for line in body.splitlines()]
TRANSCRIPTS = [tuple(part.split("\n", 1)) for body in blocks("console") for part in [body[2:]]]


@pytest.fixture(autouse=True)
def place(
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A folder with clip.mp4 and configs/, and a cache of its own."""
    times = [n / 10 for n in range(60)]
    write_mp4(tmp_path / "clip.mp4", grey_frames(times, 160, 90), tone(6.0), rate_fps=10)
    (tmp_path / "configs").symlink_to(repository / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "readme-cache"))


def arguments(command: str) -> list[str]:
    """Of an omnidrop command, on the tiny model where it needs one; the demo in less than a
    minute.
    """
    program, *rest = shlex.split(command)
    assert program == "omnidrop"
    if rest[0] == "ask" and "--model" not in rest:
        rest += ["--model", "tiny"]
    if rest[0] == "demo":
        rest += ["--speed", "8"]
    return rest


def shape(output: str) -> Iterator[str]:
    """Lines without words of a model, spans and numbers."""
    in_answer = False
    for line in output.rstrip("\n").splitlines():
        if line.startswith("  evidence "):
            in_answer = False
            line = re.sub(r"evidence .*? \|", "evidence |", line)
        elif line.startswith("["):
            in_answer = True
        elif in_answer:
            continue
        yield re.sub(r"\d+(\.\d+)?", "#", line)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("omnidrop")])
def test_a_command_of_the_readme_runs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(command)) == 0
    assert capsys.readouterr().out != ""


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("omnidrop")])
def test_a_make_command_of_the_readme_is_a_target(command: str, repository: Path) -> None:
    program, target = command.split()
    assert program == "make"
    done = subprocess.run(
        ["make", "-n", target], cwd=repository, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("command", "printed"), TRANSCRIPTS)
def test_a_transcript_has_the_shape_of_what_comes(
    command: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(command)) == 0
    assert list(shape(capsys.readouterr().out)) == list(shape(printed))


@pytest.mark.parametrize("snippet", blocks("python"))
def test_a_snippet_of_python_runs(
    snippet: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.models.EMBEDDED_FOLDER", Path("nowhere"))
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out != ""


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_configuration_of_the_readme_is_valid(text: str, tmp_path: Path) -> None:
    values = yaml.safe_load(text)
    if "cameras" not in values:
        make_config(values)
        return
    (tmp_path / "node.yaml").write_text(text)
    assert list(load_node_config(tmp_path / "node.yaml").cameras) == ["door"]


def test_json_of_a_command_fits_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    command = next(c for c in COMMANDS if "--json" in c)
    assert main(arguments(command)) == 0
    for line in capsys.readouterr().out.splitlines():
        jsonschema.validate(yaml.safe_load(line), contract.schema())


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind.exit_code for kind in kinds if issubclass(kind, errors.OmniDropError)}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)} == {
        *(0, 130, 143),
        *raised,
    }


def test_the_table_of_json_keys_is_that_of_the_schema() -> None:
    for kind in contract.schema()["$defs"]:
        if "type" not in contract.schema()["$defs"][kind].get("properties", {}):
            continue  # a part of a line
        row = re.search(rf"^\| `{kind}` \| (.*) \|$", README, re.MULTILINE)
        assert row is not None
        keys = set(contract.schema()["$defs"][kind]["properties"]) - {"v", "type"}
        assert set(re.findall(r"`(\w+)`", row.group(1))) == keys


def test_the_table_of_json_names_every_state() -> None:
    named = re.search(r"`state` \(([^)]*)\)", README)
    assert named is not None
    known = contract.schema()["$defs"]["status"]["properties"]["state"]["enum"]
    told = named.group(1).replace("; of a live stream also", ",")
    assert told.split(", ") == known


def test_every_flag_of_ask_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.info.name == "omnidrop"
    assert main(["ask", "--help"]) == 0
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    table = README.split("| flag of `ask` |")[1].split("\n\n")[0]
    short = {"--quiet": "-q", "--verbose": "-v"}
    assert [flag for flag in flags if short.get(flag, flag) not in table] == []


def test_the_questions_that_it_says_the_embedded_model_knows_are_known() -> None:
    (told,) = re.findall(r"^The embedded model knows.*?\n\n", README, re.MULTILINE | re.DOTALL)
    questions = [text.replace("\n", " ") for text in re.findall(r"`([^`]+\?)`", told)]
    assert len(questions) >= 5
    assert all(map(is_known, questions))
