"""The servers' fixtures, as the runtime's tests have them."""

from tests.runtime.servers import needs_gstreamer

__all__ = ["needs_gstreamer"]
