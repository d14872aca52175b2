"""``omnidrop bench streams`` as a table with its conditions."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    "streams",
    "depth (layers)",
    "chunks",
    "late",
    "dropped",
    "age ms p50 / p95 / max",
    "questions (unanswered)",
    "first token ms p50 / p95 / max",
    "model thread",
    "starved",
    "processor",
    "together",
    "load before",
    "holds",
)
LEGEND = (
    "late: in the trunk more than one period (2 s) after it was whole; the chunk's own cost is not "
    "forgiven, so this is stricter than one period and its own cost. dropped: given by the source, "
    "never in the trunk. holds: neither, no step of the overload ladder, every question answered.",
    "age: from when a chunk was whole until it was in the trunk. first token: from the question "
    "until the first text was back on the event loop, waiting included.",
    "model thread: its share of real time for chunks alone, by their measured cost (wall time). "
    "starved: it was ready to go on and other programs had the processors: what is measured then "
    "is less than the machine can do. processor: this process, capture threads and questions "
    "included, share of all cores. together: chunks served in one turn, mean. load before: the "
    "machine's load average just before the streams began.",
    "Windows are full before the clock starts. Pictures and sound were drawn before it too, so "
    "drawing is in no figure; pacing, cutting and copying of what was drawn is.",
)


def to_markdown(report: dict[str, Any]) -> str:
    """Conditions, the table, the legend."""
    told, options = report, report["options"]
    versions = ", ".join(f"{name} {value}" for name, value in told["versions"].items())
    largest = ", ".join(f"{n} at depth {d}" for d, n in told["largest_that_holds"].items())
    lines = [
        "# Streams: how many are carried with every chunk on time",
        "",
        f"Largest number measured that holds: {largest or 'none of those measured'}.",
        "",
        f"- {told['device']}, {told['cores']} cores, {told['threads']} thread(s) of torch; Python "
        f"{told['python']}, {versions}; commit {told['commit']}; {told['date']}",
        f"- model {told['model']}, engine {told['engine']}; {options['seconds']:g} s for each row; "
        f"windows of {options['window_chunks']} chunks (budget {options['budget_tokens']} tokens)",
        f"- {options['worlds']} worlds (picture and sound), each played by as many streams as need "
        f"be, at random phases; a question to a random stream every {options['ask_every_s']:g} s, "
        f"answers of at most {options['answer_tokens_at_most']} tokens",
        f"- glibc's allocator as `serve` sets it: {', '.join(options['allocator'])}",
        "",
        _line(COLUMNS),
        _line(["---"] * len(COLUMNS)),
        *(_line(_cells(row)) for row in told["rows"]),
        "",
        *(f"- {text}" for text in LEGEND),
        "",
    ]
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: dict[str, Any]) -> list[str]:
    def three(name: str) -> str:
        values = (row[f"{name}_{part}_ms"] for part in ("p50", "p95", "max"))
        return " / ".join("-" if value is None else f"{value:.0f}" for value in values)

    return [
        str(row["streams"]),
        f"{row['depth']} ({row['layers']})",
        str(row["chunks"]),
        str(row["late"]),
        str(row["dropped"]),
        three("age"),
        f"{row['questions']} ({row['unanswered']})",
        three("ttft"),
        f"{row['model_share']:.0%}",
        "-" if row["starved_share"] is None else f"{row['starved_share']:.0%}",
        f"{row['processor_share']:.0%}",
        f"{row['chunks_together']:.1f}",
        f"{row['load_average']:.1f}",
        "yes" if row["holds"] else "NO",
    ]
