#!/usr/bin/python3
"""A real RTSP server for the tests: GStreamer, H.264 + AAC, digest authentication.

Runs under the system's own Python (where ``gi`` lives), prints ``ready PORT``, and ends with its
standard input, so that it never outlives the tests. Mounts: ``/live`` (moving ball and tone),
``/video`` and ``/audio`` (one medium of it), ``/file`` (``--file``, an mp4; from its beginning for
the first client, in real time, ends with it), and any other feed by ``--mount``. With RTSP_USER and
RTSP_PASSWORD in the environment every mount asks for them. A line ``set NAME PROPERTY VALUE`` on
standard input turns a property of a named element, in feeds that run and those to come.
"""

import argparse
import os
import signal
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PICTURE = (
    "videotestsrc is-live=true pattern=ball ! "
    "video/x-raw,width={width},height={height},framerate=25/1 ! videoconvert ! "
    "x264enc tune=zerolatency speed-preset=ultrafast bitrate=400 key-int-max={gop} ! "
    "h264parse config-interval=-1 ! rtph264pay name=pay{video} pt=96"
)
SOUND = (
    "audiotestsrc is-live=true wave=sine freq=440 volume=0.2 ! "
    "audio/x-raw,rate=48000,channels=1 ! avenc_aac bitrate=96000 ! aacparse ! "
    "rtpmp4gpay name=pay{audio} pt=97"
)
FILE = (
    'filesrc location="{file}" ! qtdemux name=d '
    "d.video_0 ! queue ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 "
    "d.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--file", default="", help="mp4 with H.264 and AAC, shown at /file")
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--gop", type=int, default=12, help="pictures from keyframe to keyframe")
    parser.add_argument(
        "--mount", nargs=2, action="append", default=[], metavar=("PATH", "LAUNCH"), help="any feed"
    )
    given = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(given.port))
    width, height = given.size.split("x")
    picture = {"width": width, "height": height, "gop": given.gop}
    mount(server, "/live", f"{PICTURE} {SOUND}".format(**picture, video=0, audio=1))
    mount(server, "/video", PICTURE.format(**picture, video=0))
    mount(server, "/audio", SOUND.format(audio=0))
    if given.file:
        mount(server, "/file", FILE.format(file=given.file))
    knobs = Knobs()
    for path, launch in given.mount:
        mount(server, path, launch).connect("media-configure", knobs.configure)
    if user():
        server.set_auth(authentication())
    if not server.attach(None):
        sys.exit(f"cannot bind port {given.port}")
    loop = GLib.MainLoop()
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, loop.quit)
    GLib.io_add_watch(0, GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP, lambda *_: loop.quit())
    GLib.io_add_watch(0, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN, knobs.heard)
    sys.stdout.write(f"ready {server.get_bound_port()}\n")
    sys.stdout.flush()
    loop.run()


def user():
    return os.environ.get("RTSP_USER", "")


def mount(server, path, launch):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {launch} )")
    factory.set_shared(True)
    if user():
        permissions = GstRtspServer.RTSPPermissions.new()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory(path, factory)
    return factory


class Knobs:
    """What standard input sets."""

    def __init__(self):
        self._running = []
        self._set = {}

    def configure(self, _, media):
        self._running.append(media.get_element())
        media.connect("unprepared", lambda media: self._running.remove(media.get_element()))
        for (name, option), value in self._set.items():
            self._turn(self._running[-1], name, option, value)

    def heard(self, *_):
        lines = os.read(0, 65536).decode().splitlines()
        for _, name, option, value in map(str.split, lines):
            self._set[name, option] = value
            for feed in self._running:
                self._turn(feed, name, option, value)
        return bool(lines)

    def _turn(self, feed, name, option, value):
        element = feed.get_by_name(name)
        if element is not None:
            Gst.util_set_object_arg(element, option, value)


def authentication():
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken.new()
    token.set_string("media.factory.role", "user")
    auth.add_digest(user(), os.environ.get("RTSP_PASSWORD", ""), token)
    return auth


if __name__ == "__main__":
    main()
