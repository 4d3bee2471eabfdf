"""Keeps garbage collection from holding up the loop.

A full collection looks at every object there is. Most of them (modules, Envoy's message types, the policy) never
go away, and looking through them takes a tenth of a second in which no proxy is told anything. They are set aside
once, when everything is loaded; collections then look at what came since, and come less often, since a scrape makes
thousands of objects that go by themselves.
"""

from __future__ import annotations

import gc

YOUNG = 50_000
"""Objects made, less those gone, after which the young ones are looked at; Python's 700 suits small programs."""


def shorten() -> None:
    """Set aside what is there now. Call once, when everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
