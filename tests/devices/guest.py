"""What runs inside the device machine: our own sources on a real V4L2 camera and a real ALSA card.

Each check prints one line, ``RESULT`` and JSON, on the serial console. torch is never imported.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import struct
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples
from runtime.sources import CameraSource, Interruption, MicrophoneSource, PairedSource
from runtime.sources.device import DeviceSource, Patience
from runtime.sources.devices import list_cameras, list_microphones

CARD = "hw:0,1"
SHORT = Patience(open_s=20, stall_s=2)
LIMIT_S = 40
QUERYCTRL, S_CTRL, NEXT = 0xC0445624, 0xC008561C, 0x80000000


class Watch:
    """Reads a source in a thread of its own and keeps what came."""

    def __init__(self, source: DeviceSource | PairedSource) -> None:
        self.source, self.items, self.states = source, [], []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.stop()
        self._thread.join(10)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            with self.source as source:
                for item in source:
                    self.items.append((time.monotonic(), item))
        except BaseException as error:
            self.error = error

    def until(self, there: Callable[[], bool]) -> float:
        """Seconds until it was so; None after the limit is an error."""
        began = time.monotonic()
        while not there():
            state = self.source.state
            if not self.states or self.states[-1] != state.code:
                self.states.append(state.code)
            if self.error is not None:
                raise self.error
            if time.monotonic() - began > LIMIT_S:
                raise TimeoutError(f"{state}, {len(self.items)} items, {self.states}")
            time.sleep(0.02)
        return round(time.monotonic() - began, 2)

    def of(self, kind: type) -> list:
        return [item for _, item in list(self.items) if isinstance(item, kind)]


def control(name: str, value: int) -> None:
    """Set a control of the virtual camera by its name: how its faults are made."""
    descriptor = os.open("/dev/video0", os.O_RDWR)
    try:
        number = NEXT
        while True:
            query = bytearray(struct.pack("=I", number) + bytes(64))
            fcntl.ioctl(descriptor, QUERYCTRL, query)  # OSError: there is no such control
            number = struct.unpack_from("=I", query)[0]
            if query[8:40].split(b"\0")[0].decode() == name:
                fcntl.ioctl(descriptor, S_CTRL, bytearray(struct.pack("=Ii", number, value)))
                return
            number |= NEXT
    finally:
        os.close(descriptor)


def camera(**more: object) -> CameraSource:
    return CameraSource("0", fps=None, size="320x180", rate=25, patience=SHORT, **more)


def lists() -> dict:
    cameras, microphones = list_cameras(), list_microphones()
    assert any("vivid" in one.name for one in cameras), cameras
    assert any(CARD in one.name for one in microphones), microphones
    return {
        "cameras": [f"{one.type_this} {one.name}" for one in cameras],
        "microphones": [f"{one.type_this} {one.name}" for one in microphones],
    }


def camera_reads() -> dict:
    began = time.monotonic()
    with camera() as source:
        opened_s = time.monotonic() - began
        frames = [item.time_s for item in itertools.islice(source, 50)]
        late_ms = 1e3 * (time.monotonic() - source.origin_s - frames[-1])
        size = f"{source.info.width}x{source.info.height}"
    steps = np.diff(frames)
    assert np.all(steps >= 0)
    assert 1.8 < frames[-1] < 2.6, frames[-1]
    return {
        "opened_s": round(opened_s, 2),
        "size": size,
        "pictures": len(frames),
        "span_s": round(frames[-1], 3),
        "late_ms": round(late_ms, 1),
    }


def camera_by_opencv() -> dict:
    with camera(backend="opencv") as source:
        frames = [item.time_s for item in itertools.islice(source, 25)]
        assert source.info.decoder == "opencv, as asked"
        shape = f"{source.info.width}x{source.info.height}"
    return {"pictures": len(frames), "span_s": round(frames[-1], 3), "size": shape}


def camera_in_use() -> dict:
    with Watch(camera()) as watch:
        watch.until(lambda: len(watch.items) > 5)
        try:
            with camera() as second:
                next(iter(second))
        except Exception as error:
            return {"said": str(error)}
    raise AssertionError("a camera in use could be opened")


def camera_unplugged() -> dict:
    with Watch(camera()) as watch:
        watch.until(lambda: len(watch.items) > 5)
        control("Disconnect", 1)
        back_s = watch.until(lambda: bool(watch.of(Interruption)))
        count = len(watch.items)
        watch.until(lambda: len(watch.items) > count + 5)
        return {"codes": watch.states, "told": watch.of(Interruption)[0].reason, "back_s": back_s}


def camera_stalls() -> dict:
    with Watch(camera()) as watch:
        watch.until(lambda: len(watch.items) > 5)
        control("Percentage of Dropped Buffers", 100)
        seen_s = watch.until(lambda: watch.source.state.code == "timeout")
        control("Percentage of Dropped Buffers", 0)
        back_s = watch.until(lambda: watch.source.state.name == "live")
        return {"stall_s": 2, "seen_s": seen_s, "back_s": back_s, "codes": watch.states}


@contextmanager
def playing(tone_hz: float, seconds: int, device: str) -> Iterator[None]:
    """A tone on the other end of the loopback card; it plays when the block begins."""
    path = Path("/run/tone.wav")
    at = np.arange(48000 * seconds) / 48000
    pcm = (8000 * np.sin(2 * np.pi * tone_hz * at)).astype("<i2")
    with wave.open(str(path), "wb") as out:
        out.setnchannels(2), out.setsampwidth(2), out.setframerate(48000)
        out.writeframes(np.repeat(pcm, 2).tobytes())
    player = subprocess.Popen(["aplay", "-q", "-D", device, str(path)])
    status = Path("/proc/asound/card0/pcm0p/sub0/status")
    try:
        while "RUNNING" not in status.read_text():
            assert player.poll() is None, "aplay ended by itself"
            time.sleep(0.02)
        yield
    finally:
        player.kill()
        player.wait()


def microphone_hears() -> dict:
    """The microphone is first, so the card takes 16 kHz mono, and the player adapts."""
    with Watch(MicrophoneSource(CARD, patience=SHORT)) as watch:
        watch.until(lambda: len(watch.items) > 20)
        with playing(440, 30, "plughw:0,0"):
            enough = sum(len(run.pcm) for run in watch.of(Samples)) + 5 * SAMPLE_RATE
            watch.until(lambda: sum(len(run.pcm) for run in watch.of(Samples)) > enough)
        runs, stats = watch.of(Samples), watch.source.stats
    pcm = np.concatenate([run.pcm for run in runs])[-3 * SAMPLE_RATE : -SAMPLE_RATE]
    peak = float(np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)))).argmax()) / 2
    assert abs(peak - 440) <= 1, peak
    ends = [run.time_s + len(run.pcm) / SAMPLE_RATE for run in runs]
    holes = [b.time_s - a for a, b in zip(ends, runs[1:], strict=False)]
    return {
        "peak_hz": peak,
        "loud": round(float(np.abs(pcm).max()), 3),
        "overflows": stats.overflows,
        "largest_hole_ms": round(1e3 * max(holes), 1),
    }


def microphone_denies_the_rate() -> dict:
    """The player is first and holds the card at 48 kHz stereo: 16 kHz mono is denied."""
    seen = []
    with playing(1000, 30, "hw:0,0"), Watch(MicrophoneSource(CARD, patience=SHORT)) as watch:
        watch.until(lambda: sum(len(run.pcm) for run in watch.of(Samples)) > 3 * SAMPLE_RATE)
        seen.append(watch.source._tap.rate_hz)
        pcm = np.concatenate([run.pcm for run in watch.of(Samples)])[-2 * SAMPLE_RATE :]
    peak = float(np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)))).argmax()) / 2
    assert abs(peak - 1000) <= 1, peak
    assert seen == [48000], seen
    return {"rate_hz": seen[0], "peak_hz": peak}


def microphone_unplugged() -> dict:
    driver = Path("/sys/bus/platform/drivers/snd_aloop")
    with Watch(MicrophoneSource(CARD, patience=SHORT)) as watch:
        watch.until(lambda: len(watch.items) > 20)
        pull = threading.Thread(target=lambda: (driver / "unbind").write_text("snd_aloop.0"))
        pull.start()  # the kernel waits in it until the device is closed
        seen_s = watch.until(lambda: watch.source.state.name == "offline")
        code = watch.source.state.code
        pull.join(20)
        assert not pull.is_alive()
        (driver / "bind").write_text("snd_aloop.0")
        back_s = watch.until(lambda: watch.source.state.name == "live")
        return {"seen_s": seen_s, "code": code, "back_s": back_s, "codes": watch.states}


def paired_holds_together() -> dict:
    pair = PairedSource(camera(), MicrophoneSource(CARD, patience=SHORT), "pair")
    with Watch(pair) as watch:
        watch.until(lambda: watch.source.state.name == "live" and len(watch.of(Frame)) > 100)
        frames, runs = watch.of(Frame), watch.of(Samples)
        apart = frames[-1].time_s - (runs[-1].time_s + len(runs[-1].pcm) / SAMPLE_RATE)
    assert abs(apart) < 1.0, apart
    return {"pictures": len(frames), "sound_s": round(runs[-1].time_s, 2), "ends_apart_s": apart}


CHECKS = [
    *(lists, camera_reads, camera_by_opencv, camera_in_use, camera_unplugged, camera_stalls),
    *(microphone_hears, microphone_denies_the_rate, microphone_unplugged, paired_holds_together),
]


def tell(check: str, **result: object) -> None:
    sys.stdout.write(f"RESULT {json.dumps({'check': check, **result})}\n")
    sys.stdout.flush()


def main() -> int:
    wanted = sys.argv[1:]
    for check in CHECKS:
        if wanted and check.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            result = {"ok": True, **check()}
        except BaseException as error:
            result = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        result["took_s"] = round(time.monotonic() - began, 1)
        tell(check.__name__, **result)
    tell("no_torch", ok="torch" not in sys.modules)
    return 0


if __name__ == "__main__":
    sys.exit(main())
