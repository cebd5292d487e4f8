"""Whether containerd serves kubelets, by its own word.

A containerd whose CRI plugin could not start runs on without it: it answers everybody but kubelets,
which it tells ``unknown service runtime.v1.RuntimeService`` for as long as it lives. What the
plugin lacked may be there later (inotify instances, of which Linux gives a user 128 and other labs
take some), so a containerd without CRI is started again, and why it had none is said.

``ctr plugins list`` tells of each plugin how its start went (containerd's introspection service).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

QUERY: Final = ("plugins", "list", "--detailed", "type==io.containerd.grpc.v1,id==cri")
"""Arguments for ``ctr``."""
_INSTANCES: Final = Path("/proc/sys/fs/inotify/max_user_instances")


def is_served(listed: str) -> bool:
    """Whether the plugin is there and has started; ``listed`` is what ``ctr`` printed."""
    return re.search(r"^ID:\s+cri$", listed, re.MULTILINE) is not None and not refusal(listed)


def refusal(listed: str) -> str:
    """Why the plugin could not start, in containerd's words; nothing if it could, or may yet."""
    found = re.search(r"^Error:.*?^\s+Message:\s+(.+?)$", listed, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def mend(refused: str) -> str:
    """What a person does about it; nothing where nothing is known."""
    if "inotify" not in refused:
        return ""
    return (
        f"the machine's inotify instances are used up ({_limit()} for each user): end other labs "
        "and what else watches files, or let there be more: "
        "sysctl -w fs.inotify.max_user_instances=1024"
    )


def _limit() -> str:
    try:
        return _INSTANCES.read_text().strip()
    except OSError:
        return "128"
