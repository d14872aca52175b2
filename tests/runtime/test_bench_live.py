"""The runtime's own benchmark: it asks while it watches, and says what was late."""

from omnidrop_stream.config import ModelConfig
from runtime.bench import LiveBench, run_live
from runtime.host import ModelHost
from tests.helpers import settings, small_model


async def test_the_live_benchmark_reports_chunks_answers_and_the_loops_delay():
    model = small_model()
    config = settings(pruning={"retention": 0.45})
    options = LiveBench("demo:?seconds=6", seconds=5.0, ask_every_s=2.5, answer_tokens=4)
    async with ModelHost(ModelConfig(), load=lambda: model) as host:
        report = await run_live(options, config, host)
    assert report["answers"] == 1
    assert report["chunks"] >= 2
    assert report["timings_ms"]["loop.delay"]["n"] > 10
    assert {"commit", "device", "cores", "date", "versions"} <= set(report)
