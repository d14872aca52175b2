"""The published layouts are read as they are, and letters are taken as their authors take them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.config import read_yaml
from omnidrop_stream.errors import MissingDependency, SourceNotFound, SourceUnreadable
from omnidrop_stream.lab.benchmarks import AVUT, BENCHMARKS, VIDEOMME, WORLDSENSE
from omnidrop_stream.lab.benchmarks.scoring import first_capital, leading_letter
from omnidrop_stream.lab.benchmarks.settings import benchmark_settings
from omnidrop_stream.method import mean_entering
from omnidrop_stream.plan import UNSCHEDULED, plan_question
from tests import benchmarks as made

CONFIGS = Path(__file__).parents[2] / "configs" / "benchmarks"
PAPER = {  # layers, tokens that enter, tokens that the towers make: 64 chunks of 338
    "7b": (28, 9_734, 21_632),
    "3b": (36, 9_734, 21_632),
}


def test_worldsense_gives_a_clip_with_all_its_tasks(tmp_path: Path) -> None:
    first, second = WORLDSENSE.read(made.worldsense(tmp_path, ["abc", "def"]))
    assert (first.id, first.path) == ("abc", tmp_path / "videos" / "abc.mp4")
    assert [q.id for q in first.questions] == ["abc/task0", "abc/task1"]
    assert [q.answer for q in first.questions] == ["A", "B"]
    assert first.questions[1].task == "Audio Recognition"
    assert (first.questions[0].group, second.questions[0].group) == ("Music", "Games")
    assert first.questions[0].text == (
        "What is number 0?\nOptions:\nA. red\nB. green\nC. blue\nD. none\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_avut_puts_its_letters_before_the_options_and_keeps_an_empty_one(tmp_path: Path) -> None:
    (clip,) = AVUT.read(made.avut(tmp_path, ["xyz"]))
    (question,) = clip.questions
    assert clip.path == tmp_path / "data" / "xyz.mp4"
    assert (question.id, question.answer) == ("100", "B")
    assert question.group == "Audio Event Location"
    assert "A. at once\nB. later\nC. \nD. never\n" in question.text


@pytest.mark.parametrize("layout", ["rows", "authors"])
def test_videomme_is_read_from_rows_and_from_the_authors_file(tmp_path: Path, layout: str) -> None:
    if layout == "rows":
        made.videomme(tmp_path, ["abcdefghijk", "bcdefghijkl"])
    else:
        made.videomme_by_authors(tmp_path, ["abcdefghijk", "bcdefghijkl"])
    clips = VIDEOMME.read(tmp_path)
    assert [clip.id for clip in clips] == ["abcdefghijk", "bcdefghijkl"]
    assert clips[0].path == tmp_path / "data" / "abcdefghijk.mp4"
    assert clips[0].questions[0].group == "short"
    assert (
        clips[0]
        .questions[0]
        .text.endswith("\nHow many?\nA. red\nB. green\nC. blue\nD. none\nThe best answer is:")
    )


def test_videomme_is_read_from_the_hubs_parquet_file(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "videomme").mkdir()
    table = pyarrow.Table.from_pylist(made.videomme_rows(["abcdefghijk"]))
    path = tmp_path / "videomme" / "test-00000-of-00001.parquet"
    pyarrow.parquet.write_table(table, path)
    parquet = VIDEOMME.read(tmp_path)
    made.videomme(tmp_path, ["abcdefghijk"])
    assert parquet == VIDEOMME.read(tmp_path)
    (tmp_path / "videomme.json").unlink()
    path.write_bytes(b"not a table")
    with pytest.raises(SourceUnreadable, match="fetch it again"):
        VIDEOMME.read(tmp_path)


def test_a_parquet_file_without_pyarrow_tells_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videomme").mkdir()
    (tmp_path / "videomme" / "test-00000-of-00001.parquet").write_bytes(b"")
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'omnidrop-stream\[benchmarks\]'"):
        VIDEOMME.read(tmp_path)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_folder_without_annotations_tells_the_layout(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceNotFound, match=r"the folder must hold .*ID\.mp4"):
        BENCHMARKS[name].read(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answer": "yes"}, "answer is 'YES'; a letter from A to F"),
        ({"question": " "}, "question is ' '"),
        ({"task_type": None}, "task_type is None"),
        ({"video_path": "../../x.mp4"}, "leaves the folder"),
        ({"option_A": None, "option_B": None, "option_C": None, "option_D": None}, "no option_A"),
    ],
)
def test_a_damaged_entry_is_named_with_its_place(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    made.avut(tmp_path, ["one", "two"])
    path = tmp_path / "AV_Human_data.json"
    entries = json.loads(path.read_text())
    entries[1] |= change
    path.write_text(json.dumps(entries))
    with pytest.raises(SourceUnreadable, match=re.escape(told)) as caught:
        AVUT.read(tmp_path)
    assert "entry 1" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", "{", '{"a": 3}'])
@pytest.mark.parametrize("name", ["worldsense", "avut"])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, name: str, text: str) -> None:
    for file in ("worldsense_qa.json", "AV_Human_data.json"):
        (tmp_path / file).write_text(text)
    with pytest.raises(SourceUnreadable, match=r"JSON|no list|no videos|mapping"):
        BENCHMARKS[name].read(tmp_path)


def test_two_files_of_annotations_are_not_chosen_between(tmp_path: Path) -> None:
    made.videomme(tmp_path, ["abcdefghijk"])
    made.videomme_by_authors(tmp_path, ["abcdefghijk"])
    with pytest.raises(SourceUnreadable, match=r"annotations\.json, videomme\.json"):
        VIDEOMME.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "leading", "capital"),
    [
        ("B", "B", "B"),
        (" (B) green", "", "B"),
        ("b. green", "B", ""),
        ("The answer is C.", "", "C"),
        ("The best answer is D", "", "D"),
        ("Don't know", "D", "D"),
        ("green", "", ""),
        ("E", "E", ""),
        ("", "", ""),
        ("Best answer: C", "B", "B"),  # the published script takes the B of "Best"
    ],
)
def test_a_letter_is_taken_as_the_published_scripts_take_it(
    text: str, leading: str, capital: str
) -> None:
    assert (leading_letter(text), first_capital(text)) == (leading, capital)


@hypothesis.settings(max_examples=25)
@given(st.text(max_size=40), st.sampled_from("ABCD"), st.sampled_from(["", ".", ") blue", "\n"]))
def test_an_answer_that_begins_with_its_letter_chooses_it(
    rest: str, letter: str, after: str
) -> None:
    text = f" {letter}{after}{rest}"
    assert leading_letter(text) == letter
    assert first_capital(f"{letter}{after}") == letter


@hypothesis.settings(max_examples=25)
@given(st.text(max_size=40))
def test_whatever_a_model_says_gives_a_letter_or_nothing(text: str) -> None:
    assert leading_letter(text) in ("", *"ABCDEF")
    assert first_capital(text) in ("", *"ABCD")


TABLES = sorted(CONFIGS.glob("*.yaml"))


def test_there_is_a_file_for_each_table_and_size() -> None:
    names = {path.stem for path in TABLES}
    sizes = {f"table{n}-{size}" for n in (1, 2, 6, 7) for size in ("7b", "3b")}
    assert names == {*sizes, "table3-7b", "table4-3b"}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_tables_rows_reach_the_ratio_that_they_are_called_by(path: Path) -> None:
    settings = benchmark_settings(read_yaml(path), str(path))
    size = path.stem.split("-")[1]
    layers, n0, unpruned = PAPER[size]
    assert settings.config.model.model == f"Qwen/Qwen2.5-Omni-{size.upper()}"
    assert settings.wanted.table == int(path.stem[5])
    for cell in settings.cells:
        if cell.config.pruning.policy in UNSCHEDULED:
            continue
        entering = plan_question(
            cell.config.pruning, n0, unpruned, layers, 0, 0.45, remembers=False
        ).entering
        assert 100 * mean_entering(entering, unpruned) == pytest.approx(cell.ratio, abs=1.3)


def test_exponential_rows_have_the_mean_retention_of_the_sigmoid_ones() -> None:
    cells = benchmark_settings(read_yaml(CONFIGS / "table3-7b.yaml")).cells
    layers, n0, unpruned = PAPER["7b"]
    means = {
        cell.name: mean_entering(
            plan_question(cell.config.pruning, n0, unpruned, layers, 0, 0.45, False).entering,
            unpruned,
        )
        for cell in cells
    }
    for ratio in (30, 20):
        exponential, sigmoid = means[f"PLP - Exp {ratio} %"], means[f"PLP - Sig {ratio} %"]
        assert exponential == pytest.approx(sigmoid, abs=1e-3)
