"""The rolling, budgeted store of a stream's states. It knows no model."""

from omnidrop_stream.cache.segment import (
    Segment,
    expected_bytes,
    largest_id,
    slots_of,
    tensor_bytes,
)
from omnidrop_stream.cache.token_cache import EVICTION, Budget, TokenCache, oldest_window

__all__ = [
    "EVICTION",
    "Budget",
    "Segment",
    "TokenCache",
    "expected_bytes",
    "largest_id",
    "oldest_window",
    "slots_of",
    "tensor_bytes",
]
