from __future__ import annotations

import io
import json
import logging

from egress_gateway.service.logging import configure


def test_a_line_is_one_json_object_with_its_fields() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    try:
        logging.getLogger("egress_gateway.node").info("attached", extra={"pod": "default/a"})
        line = json.loads(stream.getvalue())
    finally:
        logging.getLogger().handlers.clear()
    assert line["msg"] == "attached"
    assert line["logger"] == "node"
    assert line["pod"] == "default/a"
    assert line["time"].endswith("Z")
