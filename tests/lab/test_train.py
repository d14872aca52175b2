"""The recipe as one command: resumable bit for bit, and its mistakes named in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.train import state
from omnidrop_stream.lab.train.__main__ import main
from omnidrop_stream.lab.train.recipe import Recipe, Trainer, load_recipe
from omnidrop_stream.lab.train.state import learning_rate
from omnidrop_stream.lab.train.table import as_markdown, rows_of
from omnidrop_stream.model.build import finished_thinker


def miniature(work: Path, steps: int) -> dict[str, Any]:
    """All kinds of stages, a few steps each; `steps` is where the feature stage ends."""
    encoder = {"steps": 2, "batch": 2, "streams": 1, "test_streams": 1, "report_every": 2}
    few = {"tokens": 300, "questions": 2, "report_every": 2, "test_chunks": [], "most_chunks": 3}
    return {
        "work": str(work),
        "out": str(work / "out"),
        "model": {
            "width": 16, "heads": 1, "ffn": 16, "layers": 2, "audio_width": 16, "audio_layers": 1,
            "vision_width": 16, "vision_layers": 1,
        },
        "audio": encoder | {"stream_chunks": 4},
        "vision": encoder | {"stream_chunks": 4},
        "library": {"train_streams": 4, "test_streams": 1},
        "stages": [
            {"name": "bind", "input": "symbols", "settings": few | {"steps": 2}},
            {"name": "real", "input": "features", "grow": ["0", "0z", "1"],
             "settings": few | {
                 "steps": steps, "neighbours": 0.3, "evidence": 0.1, "evidence_layers": [2],
                 "rolled": 0.5, "first_chunks": 4, "most_chunks": 4,
             }},
        ],
        "late_depth": ["0", "1z", "1", "2"],
        "late": [{
            "name": "late", "steps": steps, "early": [0], "looking": [1], "size": 300,
            "stands_for": [[0], [1, 2], [3], [4]], "questions": 2, "most_chunks": 4,
            "report_every": 2, "rolled": 0.5, "neighbour_layer": 0, "side_warm": 1,
            "retention": [0.3, 0.4],
        }],
        "shipped_depth": ["0", "1", "1", "2", "3"],
        "look": {"steps": 2, "size": 300, "questions": 2, "most_chunks": 3},
    }  # fmt: skip


def weights_of(recipe: Recipe) -> dict[str, torch.Tensor]:
    trainer = Trainer(recipe)
    trainer.run()
    return {k: v.clone() for k, v in trainer.thinker.state_dict().items()}


def test_an_interrupted_run_ends_bit_equal_to_one_in_one_go(tmp_path: Path) -> None:
    whole = Recipe.model_validate(miniature(tmp_path / "whole", 4))
    straight = weights_of(whole)
    begun = Recipe.model_validate(miniature(tmp_path / "parts", 4))
    half = begun.stages[1].settings.model_copy(update={"pause_at": 2})
    stages = (begun.stages[0], begun.stages[1].model_copy(update={"settings": half}))
    stop = {"stages": stages, "late": (), "shipped_depth": ("0", "1", "2"), "look": None}
    Trainer(begun.model_copy(update=stop)).run()
    late = (begun.late[0].model_copy(update={"pause_at": 2}),)
    Trainer(begun.model_copy(update={"late": late, "look": None})).run()
    resumed = weights_of(begun)
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_the_command_in_slices_ends_as_in_one_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = weights_of(Recipe.model_validate(miniature(tmp_path / "whole", 2)))
    values, path = miniature(tmp_path / "parts", 2), tmp_path / "parts.yaml"
    path.write_text(yaml.safe_dump(values))
    written = tmp_path / "parts" / "out" / "built.json"
    slices = 0
    while not written.exists():
        assert main([str(path), "--minutes", "0"]) == 0
        slices += 1
        assert slices < 20
    assert capsys.readouterr().out.count("paused after 0 minutes") == slices - 1 >= 5
    last = finished_thinker(tmp_path / "parts" / "out").state_dict()
    assert all(torch.equal(value, last[name]) for name, value in straight.items())


def test_a_state_is_kept_in_pieces_and_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PIECE_BYTES", 1000)
    files = state.StageFiles(tmp_path, "real")
    assert files.load() is None
    for value in (1.0, 2.0):
        files.save({"params": torch.full((500,), value), "step": 3})
    sizes = [path.stat().st_size for path in tmp_path.glob("real.????????.*")]
    assert max(sizes) <= 1000
    assert len(sizes) == len(json.loads(files.path.read_text())) > 2
    (tmp_path / "real.deadbeef.0").write_bytes(b"of a save that was interrupted")
    found = files.load()
    assert found is not None
    assert found["params"].tolist() == [2.0] * 500


def test_a_finished_checkpoint_is_grown_and_taught_again(tmp_path: Path) -> None:
    whole = Recipe.model_validate(miniature(tmp_path / "first", 2))
    weights_of(whole)
    values = miniature(tmp_path / "second", 2) | {
        "start": str(whole.out), "stages": [], "late": [],
        "shipped_depth": ["0", "1", "1", "3", "4"],
        "look": {"steps": 2, "size": 300, "questions": 2, "most_chunks": 3, "heads": [[3, 0]]},
    }  # fmt: skip
    del values["audio"], values["vision"]
    again = Recipe.model_validate(values)
    weights_of(again)
    built = json.loads((again.out / "built.json").read_text())
    assert (built["kind"], built["looking_layers"]) == ("built", [1, 2])
    assert built["looking_heads"] == ["0 of layer 3"]


def test_a_recipe_needs_towers_from_somewhere(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    values = miniature(tmp_path, 2)
    del values["audio"]
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="or start, a checkpoint"):
        load_recipe(path)


def test_an_unknown_setting_is_named_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(miniature(tmp_path, 2) | {"colour": "blue"}))
    with pytest.raises(ConfigError, match="colour"):
        load_recipe(path)


def test_a_missing_recipe_exits_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(step, 100, 10, 0.3) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:69] == [1.0] * 59
    assert rates[-1] == pytest.approx(1 / 30)
    assert rates[70:] == sorted(rates[70:], reverse=True)


def test_a_log_becomes_a_table_of_stage_ends_and_tests(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"stage": "bind", "step": 1, "s": 1.0, "loss": 2}\n'
        '{"stage": "bind", "step": 2, "s": 2.0, "loss": 1, "kinds": {"seen_when": 0.5}}\n'
        '{"stage": "bind", "step": 2, "s": 3.0, "test": "test", "chunks": 4, "seen_when": 0.25}\n'
    )
    table = as_markdown(rows_of([log])).splitlines()
    assert table[2] == "| bind | 2 | 2.0 | loss 1, seen_when 0.5 |"
    assert table[3] == "| bind | 2 | 3.0 | test test, chunks 4, seen_when 0.25 |"
    assert len(table) == 4
