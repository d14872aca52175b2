"""An HTTP server of the tests: live streams, logins, redirects and playlists."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import ssl
import threading
from collections.abc import Callable
from fractions import Fraction
from types import TracebackType
from typing import Self
from urllib.request import parse_http_list, parse_keqv_list

import av
import numpy as np

Answer = Callable[["Handler"], None]
NONCE, REALM = "dcd98b7102dd", "camera"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the server's table of paths."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers.items())))
        answer = self.server.paths.get(self.path.partition("?")[0])
        self.close_connection = True
        if answer is None:
            self.plain(404, "text/html", b"<html>none</html>")
            return
        try:
            answer(self)
        except OSError:
            return  # whoever asked has gone

    def log_message(self, *_: object) -> None:
        """Nothing to stderr."""

    def head(self, status: int, kind: str = "", **more: str) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def plain(self, status: int, kind: str, body: bytes) -> None:
        self.head(status, kind, Content_Length=str(len(body)))
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    """paths: what to answer where. asked: what was asked for so far, with its headers."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, paths: dict[str, Answer], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths, self.asked = paths, list[tuple[str, dict[str, str]]]()
        self.over = threading.Event()
        self.scheme = "http"
        if tls is not None:
            self.scheme = "https"
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that went away, or took no trust in the certificate, is no error of ours."""

    def url(self, path: str, login: str = "") -> str:
        return f"{self.scheme}://{login and login + '@'}127.0.0.1:{self.server_port}{path}"


def media(
    kind: str,
    seconds: float,
    size: tuple[int, int] = (160, 90),
    *,
    sound: bool = True,
    codec: str = "libx264",
) -> bytes:
    """A moving picture at 25 fps, a keyframe each half second, and a tone, as one file."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height = size
        video.pix_fmt, video.gop_size = "yuv420p", 12
        if codec == "libx264":
            video.options = {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number in range(round(seconds * 25)):
            image = np.full((size[1], size[0], 3), 40 + number % 100, np.uint8)
            image[:, : number % size[0]] = 220
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
            if audio is not None:
                at = np.arange(number * 640, number * 640 + 640)
                pcm = (0.3 * np.sin(at * 0.17)).astype(np.float32)[None]
                run = av.AudioFrame.from_ndarray(pcm, format="fltp", layout="mono")
                run.sample_rate, run.pts = 16000, number * 640
                run.time_base = Fraction(1, 16000)
                container.mux(audio.encode(run))
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))
    return out.getvalue()


def live(body: bytes, seconds: float, kind: str, *, hold: bool = True) -> Answer:
    """``body`` spread over its ``seconds``; then silence (``hold``) or the end."""

    def answer(to: Handler) -> None:
        to.head(200, kind)
        steps = max(1, round(seconds * 25))
        size = -(-len(body) // steps)
        for start in range(0, len(body), size):
            to.wfile.write(body[start : start + size])
            if to.server.over.wait(0.04):
                return
        if hold:
            to.server.over.wait(60)

    return answer


def mjpeg(pictures: int, every_s: float = 0.04) -> Answer:
    """Motion JPEG as cameras send it; no picture has a time."""

    def answer(to: Handler) -> None:
        to.head(200, "multipart/x-mixed-replace; boundary=frame")
        for number in range(pictures):
            body = jpeg(number)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
            to.wfile.write(head.encode() + body + b"\r\n")
            if to.server.over.wait(every_s):
                return
        to.server.over.wait(60)

    return answer


def jpeg(number: int) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuvj420p"
    context.time_base = Fraction(1, 25)
    image = np.full((48, 64, 3), 10 + 5 * (number % 40), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
    frame.pts = 0
    return bytes(context.encode(frame)[0])


def asks_for(scheme: str, user: str, password: str, then: Answer, algorithm: str = "MD5") -> Answer:
    """``then`` for who knows the login; scheme: Basic or Digest."""

    def answer(to: Handler) -> None:
        given = to.headers.get("Authorization", "")
        if given and _right(given, to.path, user, password, algorithm):
            then(to)
        elif scheme == "Basic":
            to.head(401, "text/html", WWW_Authenticate=f'Basic realm="{REALM}"', Content_Length="0")
        else:
            asked = f'Digest realm="{REALM}", nonce="{NONCE}", qop="auth", algorithm={algorithm}'
            to.head(401, "text/html", WWW_Authenticate=asked, Content_Length="0")

    return answer


def _right(given: str, path: str, user: str, password: str, algorithm: str) -> bool:
    scheme, _, rest = given.partition(" ")
    if scheme == "Basic":
        return base64.b64decode(rest).decode() == f"{user}:{password}"

    def hashed(*parts: str) -> str:
        name = algorithm.replace("-", "").lower()
        return hashlib.new(name, ":".join(parts).encode()).hexdigest()

    said = parse_keqv_list(parse_http_list(rest))
    who, what = hashed(user, REALM, password), hashed("GET", path)
    right = hashed(who, NONCE, said["nc"], said["cnonce"], "auth", what)
    return said["response"] == right and said["username"] == user
