"""CEL as schema rules use it, against the language's definition."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway_lab.apiserver.cel.rules import CelError, CelRefusedError, compile_rule, equal

_SELF = {
    "name": "ab",
    "count": 3,
    "ratio": 1.5,
    "on": True,
    "list": [1, 2, 3],
    "words": ["x", "yy"],
    "map": {"k": "v"},
    "items": [{"id": "a", "size": 1}, {"id": "b", "size": 2}],
    "cidr": "10.0.0.5/8",
}


def evaluate(text: str, value: Any = _SELF, old: Any = None) -> Any:
    return compile_rule(text, {"self": None, "oldSelf": None})({"self": value, "oldSelf": old})


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("1 + 2 * 3 == 7", True),
        ("(1 + 2) * 3", 9),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("7.0 / 2.0", 3.5),
        ("1 < 2 && 2.0 >= 2", True),
        ("self.on ? 'yes' : 'no'", "yes"),
        ("true ? 1 : false ? 2 : 3", 1),
        ("'a' + \"b\" + r'\\n'", "ab\\n"),
        ("'\\u0041\\x42\\103'", "ABC"),
        ("self.count in self.list", True),
        ("'k' in self.map", True),
        ("!('z' in self.map)", True),
        ("self['name']", "ab"),
        ("self.list[0]", 1),
        ("size(self.list) + self.name.size()", 5),
        ("has(self.name) && !has(self.absent)", True),
        ("self.list.all(i, i > 0)", True),
        ("self.list.exists(i, i == 2)", True),
        ("self.list.exists_one(i, i > 2)", True),
        ("self.list.filter(i, i != 2)", [1, 3]),
        ("self.list.map(i, i * 2)", [2, 4, 6]),
        ("self.list.map(i, i > 1, i * 2)", [4, 6]),
        ("self.map.all(k, k == 'k')", True),
        ("self.items.map(i, i.size).sum()", 3),
        ("self.items.all(i, self.items.exists_one(j, j.id == i.id))", True),
        ("[1, 2] == [1, 2] && {'a': 1} == {'a': 1.0}", True),
        ("1 == true", False),
        ("self.name.matches('^a+b$')", True),
        ("self.name.startsWith('a') && self.name.endsWith('b')", True),
        ("'a,b,c'.split(',').size()", 3),
        ("['a', 'b'].join('-')", "a-b"),
        ("'Ab'.lowerAscii() + 'b'.upperAscii()", "abB"),
        ("'hello'.substring(1, 3)", "el"),
        ("'a1b22'.findAll('[0-9]+')", ["1", "22"]),
        ("int('5') + int(2.9)", 7),
        ("string(5) + string(true)", "5true"),
        ("duration('1h30m') > duration('89m')", True),
        ("isCIDR(self.cidr) && !isCIDR('10.0.0.5')", True),
        ("cidr(self.cidr).prefixLength() == 8", True),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", True),
        ("cidr('10.0.0.0/8').containsCIDR('11.0.0.0/16')", False),
        ("string(cidr('10.0.0.5/8').masked())", "10.0.0.0/8"),
        ("isIP('::1') && ip('::1').family() == 6", True),
        ("self.?absent.orValue('none')", "none"),
        ("self.?name.hasValue()", True),
        ("[1, 2][?5].orValue(0)", 0),
        ("true || self.absent", True),
        ("self.absent || true", True),
        ("!(false && self.absent)", True),
        ("[].all(i, false)", True),
    ],
)
def test_values(text: str, result: Any) -> None:
    found = evaluate(text)
    assert found == result
    assert isinstance(found, type(result))


@pytest.mark.parametrize(
    "text",
    [
        "self.absent",
        "self.list[9]",
        "1 / 0 == 1",
        "1 + 'a' == 2",
        "self.name > 1",
        "self.count && true",
        "false || self.absent",
        "true && self.absent",
        "cidr('nonsense') == cidr('nonsense')",
        "self.on + 1 == 2",
    ],
)
def test_failures_on_values(text: str) -> None:
    with pytest.raises(CelError):
        evaluate(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "self.",
        "1 +",
        "self.a b",
        "f(1)",
        "self.launch()",
        "self.list.all(1, true)",
        "'open",
        "other",
        "size(1, 2)",
        "has(self)",
        "self.all(i, j, i == j)",
    ],
)
def test_refused_when_compiled(text: str) -> None:
    with pytest.raises(CelRefusedError):
        compile_rule(text, {"self": None})


def test_patches_are_the_business_of_mutating_policies_alone() -> None:
    text = "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('x/y~z'), value: self,}]"
    program = compile_rule(text, {"self": None}, patches=True)
    assert program({"self": 1}) == [{"op": "add", "path": "/a/x~1y~0z", "value": 1}]
    for refused in (text, "jsonpatch.escapeKey('x')", "JSONPatch{op: 'add'}"):
        with pytest.raises(CelRefusedError):
            compile_rule(refused, {"self": None})
    for refused in ("JSONPatch{other: 1}", "Object{a: 1}", "'x'{a: 1}", "jsonpatch.unknown('x')"):
        with pytest.raises(CelRefusedError):
            compile_rule(refused, {"self": None}, patches=True)


def test_fields_are_checked_along_the_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "list": {
                "type": "array",
                "items": {"type": "object", "properties": {"a": {"type": "string"}}},
            },
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "namespace": {"type": "string"},
        },
    }

    def compiles(text: str) -> bool:
        try:
            compile_rule(text, {"self": schema})
        except CelRefusedError:
            return False
        return True

    assert compiles("self.list.all(i, has(i.a))")
    assert not compiles("self.list.all(i, has(i.b))")
    assert not compiles("self.lists.size() > 0")
    assert compiles("self.free.anything == 1")
    assert compiles("self.map.key == 'x'")
    assert compiles("self.__namespace__ == 'x'")
    assert not compiles("self.list[0].a.b == 1")


def test_a_bool_is_no_number() -> None:
    assert not equal([1], [True])
    assert not equal({"a": 0}, {"a": False})
    assert equal(1, 1.0)
