"""RTSP feeds of every make, as launch lines of the GStreamer server; small, so that many fit."""

from __future__ import annotations

from dataclasses import dataclass

_TURNS = {"clockwise": "90r", "counterclockwise": "90l"}
_GATE = "valve name={name} drop=false drop-mode=forward-sticky-events"
PICTURE_GATE, SOUND_GATE = "picture-gate", "sound-gate"
"""Elements whose property ``drop`` holds a medium back while all else goes on."""
_PICTURES = {
    "h264": (
        "x264enc tune=zerolatency speed-preset=ultrafast bitrate=100 threads=1 key-int-max={gop} ! "
        "h264parse config-interval=-1",
        "rtph264pay",
    ),
    "h265": (
        "x265enc tune=zerolatency speed-preset=ultrafast bitrate=100 key-int-max={gop} "
        "option-string=pools=none:frame-threads=1:log-level=none ! h265parse config-interval=-1",
        "rtph265pay",
    ),
    "mjpeg": (
        "video/x-raw,format=I420 ! jpegenc quality=60",
        "rtpjpegpay",
    ),
    "vp8": (
        "vp8enc deadline=1 cpu-used=8 target-bitrate=100000 keyframe-max-dist={gop}",
        "rtpvp8pay",
    ),
}
_SOUNDS = {
    "aac": ("avenc_aac bitrate=64000 ! aacparse", "rtpmp4gpay", 97),
    "alaw": ("alawenc", "rtppcmapay", 8),
    "mulaw": ("mulawenc", "rtppcmupay", 0),
}


@dataclass(frozen=True, slots=True)
class Feed:
    """What a camera sends. codec, sound: None leaves that medium out. ``gop_s``: seconds from
    keyframe to keyframe. turn: clockwise or counterclockwise, for a camera on its side.
    """

    size: tuple[int, int] = (128, 96)
    fps: int = 5
    codec: str | None = "h264"
    gop_s: float = 1.0
    sound: str | None = "alaw"
    rate: int = 8000
    channels: int = 1
    wave: str = "sine"
    turn: str = "none"

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height as they arrive."""
        sideways = self.turn in _TURNS
        return (self.size[1], self.size[0]) if sideways else self.size

    @property
    def launch(self) -> str:
        """The line that GStreamer builds the feed from."""
        parts = []
        if self.codec is not None:
            encoder, payloader = _PICTURES[self.codec]
            encoder = encoder.format(gop=max(1, round(self.gop_s * self.fps)))
            gate = _GATE.format(name=PICTURE_GATE)
            parts.append(f"{self._raw_picture} ! {encoder} ! {gate} ! {payloader} name=pay0 pt=96")
        if self.sound is not None:
            encoder, payloader, kind = _SOUNDS[self.sound]
            gate, number = _GATE.format(name=SOUND_GATE), len(parts)
            parts.append(
                f"audiotestsrc is-live=true wave={self.wave} freq=440 volume=0.2 ! "
                f"audio/x-raw,rate={self.rate},channels={self.channels} ! audioconvert ! "
                f"{encoder} ! {gate} ! {payloader} name=pay{number} pt={kind}"
            )
        return " ".join(parts)

    @property
    def _raw_picture(self) -> str:
        width, height = self.size
        caps = f"video/x-raw,width={width},height={height},framerate={self.fps}/1"
        turned = "" if self.turn == "none" else f" ! videoflip video-direction={_TURNS[self.turn]}"
        return f"videotestsrc is-live=true pattern=ball ! {caps}{turned} ! videoconvert"

    def mount(self, path: str = "/live") -> tuple[str, ...]:
        """Options of the tests' RTSP server that show this feed at ``path``."""
        return ("--mount", path, self.launch)
