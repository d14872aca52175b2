"""``omnidrop benchmark`` on tiny made-up folders: scored, resumed, shared out, put together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnidrop_stream.config import read_yaml
from tests import benchmarks as made
from tests.clients.conftest import Omnidrop
from tests.runtime.conftest import Clip, clip

__all__ = ["clip"]

SMALL = """
model: {model: tiny, device: cpu, dtype: fp32}
stream: {frame_tokens: 4, prefill_depth: 0}
decode: {max_tokens: 2, question_chars: 1000}
benchmark:
  sets: [%s]
  cells:
    - {method: Full, ratio: 100, pruning: {policy: keep-all}}
    - {method: OmniDrop, ratio: 40, pruning: {retention: 0.4}}
    - {method: OmniDrop, ratio: 2, pruning: {retention: 0.02}}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL % "worldsense")
    return path


@pytest.fixture
def data(tmp_path: Path, clip: Clip) -> Path:
    """Two clips, and one that is not there."""
    folder = made.worldsense(tmp_path / "ws", ["one", "two"], clip(seconds=4.0, fps=5.0))
    (folder / "videos" / "two.mp4").write_bytes(b"cut off")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_scores_every_question_with_every_row(
    omnidrop: Omnidrop, tmp_path: Path, small: Path, data: Path
) -> None:
    out = tmp_path / "report.json"
    ran = omnidrop("benchmark", "run", "--config", small, "--data", data, "--json", out)
    assert ran.code == 0
    told = json.loads(out.read_text())
    (score,) = told["sets"]
    assert (score["clips"], score["played"]) == (2, 1)
    assert [cell and cell["total"]["n"] for cell in score["cells"]] == [2, 2, None]
    full, pruned, _ = score["cells"]
    assert full["entering"] == pytest.approx(1.0)
    assert pruned["entering"] < 0.42
    assert (full["difference"], pruned["difference"]["n"]) == (None, 2)
    # What could not be done is named: a clip that is none, a row out of reach.
    assert list(score["skipped"]) == ["two"]
    assert "retention" in score["reasons"]["OmniDrop 2 %"]
    assert "two was skipped: two.mp4 cannot be read as media" in ran.out
    assert "1 of 2 clips played, 1 skipped" in ran.out
    assert "| OmniDrop | 2 | – |" in ran.out
    assert re.search(r"at most 128 pictures a clip", ran.out)
    assert "commit " in ran.out


def test_a_run_goes_on_where_it_ended_and_tries_unreadable_clips_again(
    omnidrop: Omnidrop, tmp_path: Path, small: Path, data: Path, clip: Clip
) -> None:
    state = tmp_path / "state.jsonl"
    command = ("benchmark", "run", "--config", small, "--data", data, "--state", state)
    assert omnidrop(*command).code == 0
    before = lines(state)
    assert [line["type"] for line in before] == ["head", "conditions", "clip", "skipped"]
    (data / "videos" / "two.mp4").write_bytes(clip(seconds=4.0, fps=5.0).read_bytes())
    ran = omnidrop(*command)
    assert "going on after 1 finished clips" in ran.err
    assert lines(state)[: len(before)] == before
    assert [line["type"] for line in lines(state)[len(before) :]] == ["conditions", "clip"]
    assert "2 of 2 clips played, 0 skipped" in ran.out
    assert omnidrop(*command).out == ran.out


def test_parts_by_several_processes_give_the_report_of_one(
    omnidrop: Omnidrop, tmp_path: Path, small: Path, clip: Clip
) -> None:
    data = made.worldsense(tmp_path / "ws", ["a", "b", "c"], clip(seconds=2.0, fps=5.0))
    whole = tmp_path / "whole.jsonl"
    command = ("benchmark", "run", "--config", small, "--data", data)
    omnidrop(*command, "--state", whole)
    states = []
    for part in ("1/2", "2/2"):
        states.append(tmp_path / f"part{part[0]}.jsonl")
        assert omnidrop(*command, "--shard", part, "--state", states[-1]).code == 0
    counts = [sum(line["type"] == "clip" for line in lines(path)) for path in states]
    assert counts == [2, 1]
    joined = omnidrop("benchmark", "report", *states)
    assert joined.code == 0
    assert accuracies(joined.out) == accuracies(omnidrop("benchmark", "report", whole).out)
    assert "3 of 3 clips played" in joined.out


def accuracies(out: str) -> str:
    """The tables without times."""
    return out[out.index("## WorldSense by group") :]


def test_parts_of_different_runs_are_not_put_together(
    omnidrop: Omnidrop, tmp_path: Path, small: Path, data: Path
) -> None:
    states = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for path, flags in zip(states, ([], ["--policy", "omnidrop"]), strict=True):
        omnidrop("benchmark", "run", "--config", small, "--data", data, "--state", path, *flags)
    ran = omnidrop("benchmark", "report", *states)
    assert (ran.code, ran.out) == (2, "")
    assert "belongs to another run" in ran.err


def test_several_benchmarks_make_the_papers_second_table(
    omnidrop: Omnidrop, tmp_path: Path, clip: Clip
) -> None:
    media = clip(seconds=2.0, fps=5.0)
    (tmp_path / "all.yaml").write_text(SMALL % "videomme, worldsense, avut")
    folders = [
        f"{name}={getattr(made, name)(tmp_path / name, ['abcdefghijk'], media)}"
        for name in ("videomme", "worldsense", "avut")
    ]
    given = [word for folder in folders for word in ("--data", folder)]
    ran = omnidrop("benchmark", "run", "--config", tmp_path / "all.yaml", *given)
    assert ran.code == 0
    assert re.search(
        r"\| Method \| Retained Ratio \(%\) \| VideoMME \| WorldSense \| AVUT \|", ran.out
    )
    assert "| Method | Ret. Ratio (%) | EL | OR | OM | IE | CC | CM | Avg. |" in ran.out
    assert "| Music | Cult. & Pol. | Tech & Sci. |" in ran.out


def test_each_table_has_the_papers_form(omnidrop: Omnidrop, tmp_path: Path, clip: Clip) -> None:
    (tmp_path / "t.yaml").write_text(SMALL % "worldsense, avut")
    media, state = clip(seconds=2.0, fps=5.0), tmp_path / "state.jsonl"
    given = [
        word
        for name in ("worldsense", "avut")
        for word in ("--data", f"{name}={getattr(made, name)(tmp_path / name, ['abc'], media)}")
    ]
    omnidrop("benchmark", "run", "--config", tmp_path / "t.yaml", "--state", state, *given)
    head, *rest = lines(state)
    heads = {}
    for table in (1, 3, 4, 6, 7):
        state.write_text("\n".join(json.dumps(x) for x in [head | {"table": table}, *rest]) + "\n")
        out = omnidrop("benchmark", "report", state).out
        heads[table] = out[out.index("## ") :].splitlines()[2]
    assert heads[1] == heads[3] == heads[4] == "| Method | Ratio | WorldSense | AVUT |"
    assert heads[6].startswith("| Method | Ret. Ratio (%) | Music | Cult. & Pol. |")
    assert heads[7] == "| Method | Ret. Ratio (%) | EL | OR | OM | IE | CC | CM | Avg. |"


@pytest.mark.parametrize("name", ["table2-7b", "table3-7b"])
def test_every_row_of_a_shipped_table_can_be_asked(
    omnidrop: Omnidrop, tmp_path: Path, repository: Path, clip: Clip, name: str
) -> None:
    media = clip(seconds=4.0, fps=5.0)
    wanted = {"2": ["videomme", "worldsense", "avut"]}
    folders = [
        f"{each}={getattr(made, each)(tmp_path / each, ['abcdefghijk'], media)}"
        for each in wanted.get(name[5], ["worldsense", "avut"])
    ]
    given = [word for folder in folders for word in ("--data", folder)]
    values = read_yaml(repository / "configs" / "benchmarks" / f"{name}.yaml")
    values["decode"]["max_tokens"], values["stream"]["frame_tokens"] = 1, 12
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(values))
    ran = omnidrop(
        *("benchmark", "run", "--config", path, "--model", "tiny", "--device", "cpu", *given)
    )
    assert ran.code == 0
    assert "could not be asked" not in ran.out
    assert "–" not in ran.out[ran.out.index("## ") : ran.out.index("Accuracy in")].replace(
        "| – |\n",
        "",  # a graphics card's memory
    )


def test_a_clip_over_the_limit_of_pictures_is_thinned_and_counted(
    omnidrop: Omnidrop, tmp_path: Path, clip: Clip
) -> None:
    data = made.avut(tmp_path / "avut", ["abc"], clip(seconds=12.0, fps=5.0))
    path, state = tmp_path / "thin.yaml", tmp_path / "state.jsonl"
    path.write_text(SMALL % "avut" + "  max_frames: {avut: 6}\n")
    ran = omnidrop("benchmark", "run", "--config", path, "--data", data, "--state", state)
    record = next(line for line in lines(state) if line["type"] == "clip")
    assert (record["fps"], record["chunks"], record["pictured"]) == (1.0, 6, 3)
    assert "at most 6 pictures a clip, for which 1 were thinned" in ran.out


def test_a_clip_without_sound_refuses_guidance_by_sound_and_answers_the_rest(
    omnidrop: Omnidrop, tmp_path: Path, clip: Clip
) -> None:
    data = made.avut(tmp_path / "avut", ["abc"], clip(seconds=2.0, fps=5.0, audio=False))
    ran = omnidrop(
        *("benchmark", "run", "--benchmark", "avut", "--data", data, "--model", "tiny"),
        *("--policy", "audio-guided,intra-only", "--retention", "40"),
    )
    assert "| audio-guided | 40 | – |" in ran.out
    assert "| intra-only | 45 | 0.00 |" in ran.out
    assert "audio-guided 40 % could not be asked everywhere: policy 'audio-guided'" in ran.out


def test_rows_can_be_given_by_flags(omnidrop: Omnidrop, tmp_path: Path, clip: Clip) -> None:
    data = made.avut(tmp_path / "avut", ["abc"], clip(seconds=2.0, fps=5.0))
    ran = omnidrop(
        *("benchmark", "run", "--benchmark", "avut", "--data", data, "--model", "tiny"),
        *("--policy", "intra-only,random", "--retention", "44,40"),
    )
    assert ran.code == 0
    rows = re.findall(r"^\| ([\w-]+) \| (\d+) \| ", ran.out, re.MULTILINE)
    assert rows[:3] == [("intra-only", "45"), ("random", "44"), ("random", "40")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give --config, or --benchmark"),
        (["--benchmark", "mmlu", "--data", "x"], "'mmlu' is no benchmark"),
        (["--benchmark", "avut"], "--data is missing for avut"),
        (["--benchmark", "avut,videomme", "--data", "x"], "does not say of which benchmark"),
        (["--benchmark", "avut", "--data", "x", "--retention", "0"], "--retention = '0'"),
        (["--benchmark", "avut", "--data", "x", "--shard", "3/2"], "--shard = '3/2'"),
        (["--benchmark", "avut", "--data", "x", "--shard", "two"], "--shard = 'two'"),
        (["--benchmark", "avut", "--data", "x", "--shard", "1/2"], "needs a --state of its own"),
        (["--benchmark", "avut", "--data", "x", "--policy", "best"], "best"),
        (["--benchmark", "avut", "--data", "x", "--markdown", "no/where.md"], "no folder no"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(
    omnidrop: Omnidrop, words: list[str], told: str
) -> None:
    ran = omnidrop("benchmark", "run", *words)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert "Traceback" not in ran.err


def test_check_names_the_clips_that_are_not_there(
    omnidrop: Omnidrop, tmp_path: Path, clip: Clip
) -> None:
    data = made.worldsense(tmp_path / "ws", ["one", "two"], clip(seconds=2.0, fps=5.0))
    command = ("benchmark", "check", "--benchmark", "worldsense", "--data", data)
    assert omnidrop(*command).out == "worldsense: 2 clips, 3 questions, 0 clips missing\n"
    (data / "videos" / "two.mp4").unlink()
    ran = omnidrop(*command)
    assert ran.code == 3
    assert ran.out.splitlines()[1].endswith("two.mp4")


def test_a_state_file_of_something_else_is_refused(omnidrop: Omnidrop, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("hello\n")
    ran = omnidrop("benchmark", "report", tmp_path / "x.jsonl")
    assert ran.code == 2
    assert "is no state file of omnidrop benchmark" in ran.err
