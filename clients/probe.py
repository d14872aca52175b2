"""``omnidrop probe``: what a source is, how it arrives, and the one thing most worth doing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from clients import contract
from clients.terminal import clean, sentence, write_out

if TYPE_CHECKING:
    from runtime.probe import Drift, Report
    from runtime.sources.choose import MediaStream
    from runtime.sources.options import SourceOptions


def probe(source: str, options: SourceOptions, seconds: float, json: bool = False) -> int:
    """Look at the source and print what was found; 0 also where there is something to mend."""
    from runtime.probe import probe as look
    from runtime.sources.complaints import listen

    listen()
    report = look(source, options, seconds)
    if json:
        found = dataclasses.asdict(report)
        write_out(contract.line({"v": contract.VERSION, "type": "probe", **_rounded(found)}))
        return 0
    rows = _rows(report)
    width = max(len(name) for name, _ in rows)
    write_out(sentence(report.source))
    for name, value in rows:
        write_out(clean(f"  {name:<{width}}  {value}"))
    write_out(f"-> {sentence(report.advice)}")
    return 0


def _rows(report: Report) -> list[tuple[str, str]]:
    rows = [("pictures", _video(report)), ("sound", _audio(report.audio))]
    if report.video is not None and report.video.codec != "raw":
        rows.append(("keyframes", _keyframes(report)))
        rows.append(("decoder", report.decoder))
    rows.append(("connected in", f"{report.connect_s:.2f} s"))
    if report.video is not None:
        rows.append(("first picture after", _seconds(report.first_picture_s)))
    if report.audio is not None:
        rows.append(("first sound after", _seconds(report.first_sound_s)))
    offset_ms = report.av_offset_ms
    if offset_ms is not None:
        later = "later than" if offset_ms >= 0 else "before"
        verb = "arrives" if report.live else "begins"
        rows.append(("A/V offset", f"sound {verb} {abs(offset_ms):.0f} ms {later} the pictures"))
    for name, drift in (("picture clock", report.video_drift), ("sound clock", report.audio_drift)):
        if drift is not None:
            rows.append((name, _drift(drift)))
    rows.append(
        (
            "damaged",
            f"{report.corrupt_frames} pictures corrupt, {report.decode_errors} pieces undecodable, "
            f"{report.untimed} without a time, {report.interruptions} interruptions",
        )
    )
    return rows


def _video(report: Report) -> str:
    video = report.video
    if video is None:
        return "none"
    told = f", {video.fps:g} fps told" if video.fps else ""
    measured = f", {report.fps:.1f} fps measured" if report.fps else ""
    return f"{_codec(video)}, {video.width}x{video.height}{told}{measured}"


def _audio(audio: MediaStream | None) -> str:
    if audio is None:
        return "none"
    channels = {1: "mono", 2: "stereo"}.get(audio.channels, f"{audio.channels} channels")
    return f"{_codec(audio)}, {audio.rate} Hz, {channels}"


def _codec(stream: MediaStream) -> str:
    return f"{stream.codec} ({stream.profile})" if stream.profile else stream.codec


def _keyframes(report: Report) -> str:
    every_s = report.keyframe_every_s
    if every_s is None:
        return f"fewer than two in {report.seconds:.1f} s"
    return f"every {every_s:.2f} s"


def _seconds(value: float | None) -> str:
    return "none came" if value is None else f"{value:.2f} s"


def _drift(drift: Drift) -> str:
    sure = "" if drift.certain else ": too little to tell, look longer (--seconds)"
    return f"{drift.ppm:+.0f} ppm, plus or minus {drift.plus_minus_ppm:.0f}{sure}"


def _rounded(found: dict[str, object]) -> dict[str, object]:
    return {
        key: round(value, 4)
        if isinstance(value, float)
        else _rounded(value)
        if isinstance(value, dict)
        else value
        for key, value in found.items()
    }
