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


def test_an_errors_message_commands_no_terminal() -> None:
    stream = io.StringIO()
    configure("info", "text", stream)
    try:
        raise RuntimeError("\x1b[2Jcleared")
    except RuntimeError:
        logging.getLogger("egress_gateway.node").exception("failed")
    finally:
        logging.getLogger().handlers.clear()
    said = stream.getvalue()
    assert "\x1b" not in said
    assert r"RuntimeError: \x1b[2Jcleared" in said
    assert "failed\nTraceback" in said, "its lines stay"
