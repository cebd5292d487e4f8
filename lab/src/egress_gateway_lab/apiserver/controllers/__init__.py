"""The controllers of a control plane that the lab needs, in one loop.

All state is in the store and all writes are synchronous, so there are no caches and no conflicts:
a change marks keys dirty, the loop reconciles each from what is stored now. A Deployment's pods
are bound within milliseconds of its creation because nothing waits for anything.
"""

from __future__ import annotations

from egress_gateway_lab.apiserver.controllers.control import Controllers, Timing

__all__ = ["Controllers", "Timing"]
