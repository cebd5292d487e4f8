"""How much a capture may take, for the person who asks and for the agent that does it."""

from __future__ import annotations

from typing import Final

import click

SECONDS: Final = click.FloatRange(1, 60)
PACKETS: Final = click.IntRange(1, 100_000)
SIZE: Final = 10 * 1024 * 1024
"""Bytes of one file: it travels through the API server."""
HEADERS: Final = 128
"""Bytes of a packet that are kept by default: headers, and little of what people say."""
SNAPLEN: Final = 65535
