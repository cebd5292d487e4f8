"""The plugin's JSON scanner against Python's: whatever one accepts, the other does too, and both
see the same annotation and the same result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress_gateway.api import names
from egress_gateway.cni import protocol
from tests.cni.plugin_calls import call

FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = texts | st.sampled_from(
    [names.POD_ANNOTATION, names.CNI_CAPABILITY, "runtimeConfig", "prevResult", "cniVersion"]
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=5)


def dump(document: Any, *, ascii: bool, indent: int | None) -> str:
    return json.dumps(document, ensure_ascii=ascii, indent=indent)


@FUZZ
@given(
    document=objects,
    result=objects,
    annotations=objects,
    ascii=st.booleans(),
    indent=st.none() | st.integers(0, 2),
)
def test_same_annotation_and_same_result(
    tmp_path: Path,
    document: dict[str, Any],
    result: dict[str, Any],
    annotations: dict[str, Any],
    ascii: bool,
    indent: int | None,
) -> None:
    annotations = {k: v for k, v in annotations.items() if isinstance(v, str)}
    text = dump(result, ascii=ascii, indent=indent)
    marker = "\x01result\x01"
    conf = document | {
        "cniVersion": "1.0.0",
        "runDir": str(tmp_path),
        "prevResult": marker,
        "runtimeConfig": {names.CNI_CAPABILITY: annotations},
    }
    stdin = dump(conf, ascii=ascii, indent=indent).replace(json.dumps(marker), text)
    done = call("ADD", stdin.encode())
    if annotations.get(names.POD_ANNOTATION):
        assert done.error["code"] == protocol.TRY_AGAIN  # asked for an agent that is not there
    else:
        assert (done.code, done.out.decode()) == (0, text)


@FUZZ
@given(document=objects, data=st.data())
def test_accepts_exactly_what_json_is(
    tmp_path: Path, document: dict[str, Any], data: st.DataObject
) -> None:
    """One character of a sound document changed, dropped or doubled."""
    conf = {"cniVersion": "1.0.0", "runDir": str(tmp_path), "prevResult": {}, "x": document}
    text = json.dumps(conf)
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from(["", text[at] * 2, *'{}[]",:\\0-.eE+tfn \x00\x1fu/']))
    changed = text[:at] + new + text[at + 1 :]
    done = call("ADD", changed.encode(), CNI_CONTAINERID="")
    decodable = done.error["code"] != protocol.DECODE_FAILURE
    assert decodable == _is_object(changed)


def _is_object(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)  # Python alone takes NaN and Infinity

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except ValueError:
        return False


@pytest.mark.parametrize(
    "number", ["0", "-0", "1.5", "1e5", "1E+5", "-1.0e-5", "01", "1.", ".5", "+1", "1e", "-", "0x1"]
)
def test_numbers(number: str) -> None:
    text = f'{{"cniVersion":"1.0.0","x":{number}}}'
    done = call("ADD", text.encode(), CNI_CONTAINERID="")
    assert (done.error["code"] != protocol.DECODE_FAILURE) == _is_object(text)
