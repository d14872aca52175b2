"""The benchmark's figures are about what they say they are; time itself is never asserted."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from clients.bench import app
from omnidrop_stream.config import load_config, merged
from omnidrop_stream.errors import ConfigError, OmniDropError, UsageError
from omnidrop_stream.lab.bench import BenchSettings, RollingSettings, build_model, run
from omnidrop_stream.lab.bench_cost import Ratio, Spread, Stopwatch
from omnidrop_stream.lab.bench_decode import ANSWERS, LATER
from omnidrop_stream.lab.bench_feed import (
    DEPTHS,
    QUESTION,
    KeptTowers,
    encode_all,
    first_half,
    frame_tokens,
    make_chunks,
    open_stream,
    push_all,
)
from omnidrop_stream.lab.bench_floor import Rates
from omnidrop_stream.lab.bench_report import to_json, to_markdown, to_text
from omnidrop_stream.lab.bench_rolling import _compared
from omnidrop_stream.lab.bench_stock import StockWindow
from omnidrop_stream.lab.bench_types import MOMENTS, STOCK
from omnidrop_stream.method import catch_up_counts
from omnidrop_stream.plan import nominal_r0, plan_question
from omnidrop_stream.types import Answer
from tests.helpers import UNPRUNED

CONDITIONS = {
    "date",
    "commit",
    "device",
    "machine",
    "cores",
    "threads",
    "load_average",
    "python",
    "versions",
}
LABELS = {"depth_0": "exact", "exact": "exact", "catch_up": "catch_up", "read_side": "read_side"}


@pytest.fixture(scope="module")
def config():
    from tests.conftest import REPOSITORY

    return load_config(REPOSITORY / "configs" / "bench.yaml")


@pytest.fixture(scope="module")
def settings(config):
    return BenchSettings(
        config, "tiny", (2, 4), repeats=2, stock_repeats=1, rolling=RollingSettings(12, 4, 2)
    )


@pytest.fixture(scope="module")
def reports(settings):
    return list(run(settings))


@pytest.fixture(scope="module")
def report(reports):
    return reports[-1]


@pytest.fixture(scope="module")
def model(settings):
    return build_model(settings)


def test_a_report_has_every_path_at_every_window_and_moment(report, reports):
    seen = [(row.window, row.moment, row.path) for row in report.rows]
    paths = (*STOCK, *DEPTHS)
    assert sorted(seen) == sorted((w, m, p) for w in (2, 4) for m in MOMENTS for p in paths)
    assert [len(r.rows) for r in reports] == [14, 28, 28]
    assert [r.rolling is not None for r in reports] == [False, False, True]


def test_a_report_tells_its_conditions_and_settings(report, config):
    assert set(report.conditions) == CONDITIONS
    assert report.conditions["threads"] == torch.get_num_threads()
    assert set(report.conditions["versions"]) == {"torch", "transformers", "numpy"}
    assert report.settings["question"] == QUESTION
    assert report.settings["layers"] == 6
    assert report.settings["config"]["pruning"]["retention"] == config.pruning.retention


def test_each_row_counts_tokens_as_its_depth_and_schedule_say(report, config):
    for row in report.rows:
        if row.path in STOCK:
            assert set(row.per_layer) == {row.unpruned}
            continue
        assert row.label == LABELS[row.path]
        n0, nominal = row.per_layer[0], nominal_r0(config.stream, config.intra, 24)
        paper = plan_question(config.pruning, n0, row.unpruned, 6, 0, nominal, False).entering
        depth = 0 if row.path == "read_side" else row.depth
        assert row.per_layer == catch_up_counts(paper, depth)
        assert row.depth == {"depth_0": 0, "exact": 1, "catch_up": 3, "read_side": 6}[row.path]


def test_stock_and_ours_see_the_same_stream(report):
    for row in report.rows:
        whole = row.window * 86 + (43 if row.moment == "mid_chunk" else 0)  # 2 x 18 + 50 a chunk
        assert row.unpruned == whole


def test_each_of_our_rows_tells_the_work_on_arrival_and_the_memory(report):
    for row in report.rows:
        ours = row.path in DEPTHS
        assert (row.arrival_ms is not None) == ours
        assert (row.held_bytes is not None) == ours
        assert (row.peak_bytes is not None) == (row.moment == "boundary")
        assert row.peak_bytes is None or row.peak_bytes > 0
        assert len(row.ttft_ms.samples) == (2 if ours else 1)
        if row.moment == "mid_chunk" and ours:
            assert row.parts_ms["open_chunk"] > 0
    held = {(r.window, r.path): r.held_bytes for r in report.rows if r.moment == "boundary"}
    assert held[4, "read_side"] == 2 * held[2, "read_side"] > held[4, "depth_0"]


@pytest.mark.parametrize("half_open", [False, True])
@pytest.mark.parametrize("depth", [0, 3, "read_side"])
def test_unpruned_ours_stock_layers_and_the_shipped_forward_agree(model, config, depth, half_open):
    unpruned = merged(config, {**UNPRUNED, "pruning": {"policy": "keep-all", "retention": None}})
    chunks = make_chunks(3)
    part = first_half(chunks[2]) if half_open else None
    window = [*chunks[:2], part] if part else chunks
    stock = StockWindow(
        model, window, config.stream.system_prompt, frame_tokens(config, model.spec)
    )
    layers = stock.layers(stock.towers())
    assert torch.allclose(layers, stock.as_shipped(), atol=2e-5, rtol=1e-4)

    watched = Watched(model)
    stream = open_stream(watched, unpruned, depth, 1000, Stopwatch(torch.device("cpu")).now)
    push_all(stream, chunks[:2] if part else chunks)
    answer = list(stream.ask(QUESTION, open_chunk=part))[-1]
    assert isinstance(answer, Answer)
    assert answer.tokens.per_layer[0].video + answer.tokens.per_layer[0].audio == stock.tokens
    assert torch.allclose(watched.logits, layers, atol=2e-5, rtol=1e-4)


class Watched(KeptTowers):
    """Keeps the logits of the last question."""

    def __init__(self, model):
        super().__init__(model, [])
        self.live = True

    def pruned_prefill(self, *args):
        fork = yield from super().pruned_prefill(*args)
        self.logits = fork.logits.clone()
        return fork


def test_kept_tower_results_make_the_states_that_encoding_makes(model, config):
    chunks = make_chunks(4)
    kept = KeptTowers(model, encode_all(model, config, chunks))
    held = []
    for live in (True, False):
        kept.live = live
        stream = open_stream(kept, config, 3, 1000, lambda: 0.0)
        push_all(stream, chunks)
        held.append(stream.snapshot())
    for one, other in zip(*held, strict=True):
        assert one.window == other.window
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.tokens.offsets, other.tokens.offsets)


def test_kept_results_go_on_past_their_pool_in_windows_of_two(model, config):
    chunks = make_chunks(4)
    kept = KeptTowers(model, encode_all(model, config, chunks))
    later = kept.kept(dataclasses.replace(chunks[1], index=9))
    assert (later.window, later.carry.next_chunk, later.carry.window) == (4, 10, 4)
    assert later.tokens.embeds.data_ptr() != kept.kept(chunks[1]).tokens.embeds.data_ptr()


def test_an_old_stream_holds_what_a_young_one_holds(report):
    rolling = report.rolling
    assert rolling.old_bytes == rolling.young_bytes > 0
    assert rolling.old_evicted == rolling.young_evicted + 8
    assert rolling.label == "exact_schedule"
    assert len(rolling.question_ms.old.samples) == 2


def test_both_engines_are_measured_at_the_same_windows(config):
    settings = BenchSettings(config, "tiny", (), 1, engines=True, engine_windows=(2, 8))
    (report,) = run(settings)
    rows, arrivals = report.engines.rows, report.engines.arrivals
    both = [(window, engine) for window in (2, 8) for engine in ("plain", "fast")]
    assert [(r.window, r.engine) for r in arrivals] == both
    assert all(len(r.arrival_ms.samples) == len(r.attention_ms.samples) == 2 for r in arrivals)
    long, short = rows[0].text_rows, rows[2].text_rows
    assert 0 < short < long
    order = [(window, rows) for window in (2, 8) for rows in (long, long, short, short)]
    assert [(r.window, r.text_rows) for r in rows] == order
    for plain, fast in zip(rows[::2], rows[1::2], strict=True):
        assert (plain.engine, fast.engine) == ("plain", "fast")
        assert (plain.read_bytes, plain.flops) == (fast.read_bytes, fast.flops)
        assert plain.faster.median == 1.0
        assert plain.first_ms not in plain.question_ms.samples
    assert rows[4].read_bytes > rows[0].read_bytes == rows[2].read_bytes > 0
    assert rows[4].flops > rows[0].flops > rows[2].flops > 0
    rates = report.engines.rates
    assert all(row.floor_ms == rates.floor_ms(row.read_bytes, row.flops) for row in rows)
    tokens = report.engines.tokens
    assert [(r.window, r.engine) for r in tokens] == both
    assert all(len(r.token_ms.samples) == ANSWERS * LATER for r in tokens)
    assert tokens[2].read_bytes > tokens[0].read_bytes == tokens[1].read_bytes > rows[0].read_bytes
    assert all(row.floor_ms == rates.floor_ms(row.read_bytes, 0) for row in tokens)
    text, markdown = to_text(report), to_markdown(report)
    assert all(f"{row.window}  {row.text_rows}  {row.engine}" in text for row in rows)
    assert markdown.count("| chunks |") == 3
    assert "## Both engines" in markdown


def test_a_floor_is_the_larger_of_what_is_read_and_what_is_computed():
    rates = Rates(copy_bytes_per_s=4e9, matmul_flops_per_s=1e9)  # a copy reads 2 GB/s
    assert rates.floor_ms(read_bytes=2_000_000, flops=999_000) == 1.0
    assert rates.floor_ms(read_bytes=2_000_000, flops=3_000_000) == 3.0


def test_the_interval_of_a_ratio_tells_equal_from_twice_as_slow():
    same = [(float(x), 1.0) for x in (10, 11, 12, 13, 14, 15, 16)]
    twice = [(2 * wall, cpu) for wall, cpu in same]
    assert _compared(same, same[::-1], 0).contains_one
    slower = _compared(twice, same, 0)
    assert slower.ratio == 2.0
    assert not slower.contains_one


def test_a_ratio_is_that_of_medians_with_the_extremes_against_each_other():
    ratio = Ratio.of(Spread.of([30.0, 20.0, 40.0]), Spread.of([2.0, 1.0, 4.0]))
    assert ratio == Ratio(15.0, 5.0, 40.0)


def test_peak_memory_is_what_was_allocated_at_once():
    def work():
        first = torch.ones(1 << 20)
        del first
        return (torch.ones(1 << 20) + 1).sum()

    peak = Stopwatch(torch.device("cpu")).peak_bytes(work)
    assert 2 << 22 <= peak < (2 << 22) + 4096


def test_text_markdown_and_json_hold_every_row(report):
    text, markdown = to_text(report), to_markdown(report)
    values = json.loads(to_json(report))
    assert len(values["rows"]) == len(report.rows)
    assert values["rolling"]["old_bytes"] == report.rolling.old_bytes
    for path in (*STOCK, *DEPTHS):
        assert sum(line.split()[1:2] == [path] for line in text.splitlines()) == 4
        assert sum(line.split(" | ")[1:2] == [path] for line in markdown.splitlines()) == 4
    assert "random weights" in markdown


def test_the_benchmarks_settings_are_what_the_targets_name(config):
    model = build_model(BenchSettings(config, "bench", (2,)))
    spec = model.spec
    assert (spec.n_layers, spec.hidden_size, spec.vocabulary) == (12, 512, 8192)
    pair = encode_all(model, config, make_chunks(2))
    assert [e.tokens.n_unpruned for e in pair] == [338, 338]
    assert 16 * sum(e.tokens.count for e in pair) == config.stream.budget_tokens
    assert config.pruning.retention == 0.30


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"windows": (3,)}, "--chunks = 3"),
        ({"windows": (0,)}, "--chunks = 0"),
        ({"repeats": 0}, "--repeats = 0"),
        ({"stock_repeats": 0}, "--stock-repeats = 0"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(config, changes, named):
    with pytest.raises(ConfigError, match=named):
        BenchSettings(config, "tiny", **changes)


@pytest.mark.parametrize("values", [(4, 4, 5), (8, 3, 5), (8, 4, 1)])
def test_a_rolling_comparison_that_says_nothing_is_refused(values):
    with pytest.raises(ConfigError):
        RollingSettings(*values)


def test_the_command_prints_tables_and_writes_both_files(tmp_path, repository):
    files = [str(tmp_path / "r.json"), str(tmp_path / "r.md")]
    words = ["latency", "--quick", "--config", str(repository / "configs" / "bench.yaml")]
    done = CliRunner().invoke(app, [*words, "--json", files[0], "--markdown", files[1]])
    assert done.exit_code == 0, done.output
    assert "read_side" in done.stdout
    assert len(json.loads((tmp_path / "r.json").read_text("utf-8"))["rows"]) == 28
    assert (tmp_path / "r.md").read_text("utf-8").startswith("# Latency")


@pytest.mark.parametrize(
    ("words", "kind", "named"),
    [
        (["--model", "x", "--random-weights", "tiny"], UsageError, "exclude"),
        (["--chunks", "8,x"], UsageError, "--chunks = '8,x'"),
        (["--chunks", "7"], ConfigError, "--chunks = 7"),
        (["--json", "no/such/folder/r.json"], UsageError, "no folder"),
        (["--random-weights", "13b"], ConfigError, "13b"),
        (["--device", "tpu"], ConfigError, "tpu"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(words, kind, named):
    done = CliRunner().invoke(app, ["latency", *words])
    assert isinstance(done.exception, kind)
    assert isinstance(done.exception, OmniDropError)
    assert named in str(done.exception)
