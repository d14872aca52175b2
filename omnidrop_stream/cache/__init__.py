"""The rolling, budgeted store of a stream's states. It knows no model."""

from omnidrop_stream.cache.arena import Arena, Band, Paged, RowShape, Storage, lease
from omnidrop_stream.cache.eviction import EVICTION, Eviction, EvictionSettings, oldest_window
from omnidrop_stream.cache.hidden import HiddenArena, HiddenRows, joined
from omnidrop_stream.cache.pages import PAGE_ROWS, Extent, PagePool
from omnidrop_stream.cache.segment import (
    Segment,
    expected_bytes,
    largest_id,
    slots_of,
    tensor_bytes,
)
from omnidrop_stream.cache.token_cache import Budget, TokenCache

__all__ = [
    "EVICTION",
    "PAGE_ROWS",
    "Arena",
    "Band",
    "Budget",
    "Eviction",
    "EvictionSettings",
    "Extent",
    "HiddenArena",
    "HiddenRows",
    "PagePool",
    "Paged",
    "RowShape",
    "Segment",
    "Storage",
    "TokenCache",
    "expected_bytes",
    "joined",
    "largest_id",
    "lease",
    "oldest_window",
    "slots_of",
    "tensor_bytes",
]
