"""Stream time in words, and what an answer could not see of it. Pure."""

from __future__ import annotations

from omnidrop_stream.types import CHUNK_SECONDS, Coverage, Gap

STALE_S = 4.0
"""So much older than the question the newest thing seen may be: a chunk, and its way in."""
SHORTEST_S = CHUNK_SECONDS - 1e-6
"""Less than a chunk is the joint of a stream that came back, or a chunk that is open: no news."""
_WORDS = {
    "video_absent": "no pictures",
    "audio_absent": "no sound",
    "overload": "dropped",
    "stale": "dropped",
    "skipped": "dropped",
    "loading": "dropped",
}


def unseen(coverage: Coverage, staleness_s: float) -> list[str]:
    """``no pictures 00:34-00:54``, ``3 chunks dropped``, ``saw nothing after 00:34``: each kind
    once, with its newest stretch.
    """
    kinds: dict[str, list[Gap]] = {}
    for gap in coverage.gaps:
        kinds.setdefault(_WORDS.get(gap.reason, "nothing"), []).append(gap)
    parts = [_kind(words, gaps) for words, gaps in kinds.items()]
    if staleness_s > STALE_S:
        parts.append(f"saw nothing after {clock(coverage.to_s)}")
    return [part for part in parts if part]


def clock(seconds: float) -> str:
    """Stream time as mm:ss (h:mm:ss from an hour on)."""
    whole = int(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def moment(seconds: float) -> str:
    """The same with tenths where it is no whole second: when a question was asked."""
    whole, tenth = divmod(round(seconds * 10), 10)
    return f"{clock(whole)}.{tenth}" if tenth else clock(whole)


def stretch(from_s: float, to_s: float) -> str:
    """``00:02-00:02.5``; what is shorter than a tenth is told as one."""
    from_tenths, to_tenths = round(from_s * 10), round(to_s * 10)
    if to_s > from_s:
        to_tenths = max(to_tenths, from_tenths + 1)
    return f"{moment(from_tenths / 10)}-{moment(to_tenths / 10)}"


def _kind(words: str, gaps: list[Gap]) -> str:
    """All holes of one kind: the newest, and how much there is of them together."""
    total_s = sum(gap.to_s - gap.from_s for gap in gaps)
    if words == "dropped":
        count = max(1, round(total_s / CHUNK_SECONDS))
        return f"{count} chunk{'' if count == 1 else 's'} dropped"
    if total_s < SHORTEST_S:
        return ""
    newest = gaps[-1]
    for gap in reversed(gaps[:-1]):
        if gap.to_s < newest.from_s - 1e-6:
            break
        newest = Gap(gap.from_s, newest.to_s, gap.reason)
    told = f"{words} {clock(newest.from_s)}-{clock(newest.to_s)}"
    rest = total_s - (newest.to_s - newest.from_s)
    return told if rest < SHORTEST_S else f"{told} ({total_s:.0f} s in all)"
