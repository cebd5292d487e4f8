"""Which namespace may use which public IP prefix: the cluster's administrator decides. Pure.

The controller joins prefixes with rights of its own, so it must ask on whose behalf (a deputy that
does not is confused). A grant is an annotation of the Namespace, which its tenants cannot write:
ids of prefixes, separated by commas or blanks, ``*`` for any run of characters but ``/``. An entry
that is neither grants nothing, and reserves what it may have meant.

*Open* (the default, as AKS has it): any namespace may use a prefix that no Namespace names; one
that some Namespace names is for those alone. *Strict*: a namespace uses the prefixes that its own
annotation names. Private mode and a managed prefix impersonate nobody, and need no grant. The
managed prefix of another namespace's configuration is that namespace's, as if it named it.

A *share* keeps one namespace from using up a prefix that several may use. Only that number of its
configurations, the oldest, may use the prefix, unless it is reserved for that namespace alone.
See docs/design/cluster/0014-prefix-grants.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from egress_gateway.api import names
from egress_gateway.api.conditions import Reason
from egress_gateway.api.crd_texts import GROUP_CHARACTERS
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.controller.planning.problem import Problem

_SEPARATOR: Final = re.compile(rf"[^/*?\[\]{{}}{GROUP_CHARACTERS}]+")
"""Whatever is neither in an id nor in a pattern."""
_WRITTEN: Final = re.compile(rf"[*{GROUP_CHARACTERS}]+")
_CUT: Final = re.compile(r"[?\[{]")
"""Where the patterns of shells begin that are none here."""
UNCLEAR: Final = "AllowedPrefixesUnclear"
"""Reason of the Event on a Namespace whose annotation says something else."""
_EVERY: Final = "*"
"""Alone: every prefix. It names none, so that it takes none away from others."""
_FORM: Final = (
    "",
    "subscriptions",
    None,
    "resourceGroups",
    None,
    "providers",
    "Microsoft.Network",
    "publicIPPrefixes",
    None,
)
"""Segments of a prefix's id; None: a name."""


def _glob(text: str, star: str = "[^/]*") -> re.Pattern[str]:
    return re.compile(star.join(map(re.escape, text.split("*"))), re.IGNORECASE)


def _plain(text: str) -> str:
    """As it was meant, where it looks the same: digits and dashes of other scripts, invisible
    characters, and what an address bar makes of slashes."""
    written = unicodedata.normalize("NFKC", unquote(text))
    return "".join(
        str(unicodedata.decimal(c)) if c.isdecimal() else "-" if category == "Pd" else c
        for c in written
        if (category := unicodedata.category(c)) != "Cf"
    )


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One entry. ``clear``: it has the form of an id. One that has not grants nothing, but keeps
    the prefixes whose names stand in it from others: it was meant to, and one that matched nothing
    would protect nothing."""

    text: str
    clear: bool
    expressions: tuple[re.Pattern[str], ...]
    """Of whole ids, or of names where it is not clear."""

    @classmethod
    def of(cls, text: str) -> _Pattern:
        if text == _EVERY:
            return cls(text, clear=True, expressions=(_glob(text, ".*"),))
        segments = ["", *text.strip("/").split("/")]
        # Groups may have letters of all scripts, prefixes only ASCII.
        ours = len(segments) == len(_FORM) and segments[-1].isascii()
        if ours and all(map(_fits, segments, _FORM)):
            return cls(whole := "/".join(segments), clear=True, expressions=(_glob(whole),))
        named = (word for word in map(_named, segments) if word.strip("*"))
        return cls(text, clear=False, expressions=tuple(map(_glob, named)))

    def matches(self, prefix_id: str) -> bool:
        about = prefix_id if self.clear else prefix_id.rpartition("/")[2]
        return any(one.fullmatch(about) for one in self.expressions)


def _entries(annotation: str) -> list[_Pattern]:
    return [_Pattern.of(part) for part in _SEPARATOR.split(_plain(annotation)) if part]


def unclear_entries(annotation: str) -> str:
    """What to tell of entries that are neither ids nor patterns of ids; empty if there are none."""
    unclear = ", ".join(entry.text[:200] for entry in _entries(annotation) if not entry.clear)
    return unclear and (
        f"{names.ALLOWED_PREFIXES_ANNOTATION} has entries that are no ids of public IP prefixes, "
        "and no patterns of such: they grant nothing, and reserve prefixes whose names stand in "
        f"them; write /subscriptions/…/publicIPPrefixes/NAME: {unclear}"
    )


def _fits(segment: str, fixed: str | None) -> bool:
    if fixed is None:
        return _WRITTEN.fullmatch(segment) is not None and not segment.endswith(".")
    return _glob(segment).fullmatch(fixed) is not None


def _named(segment: str) -> str:
    """What of a segment may be a prefix's name, as a pattern."""
    head, *cut = _CUT.split(segment.strip("[](){}."), maxsplit=1)
    return f"{head}*" if cut else head


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """``annotations``: by namespace, the text of its annotation where it has one."""

    annotations: Mapping[str, str]
    strict: bool = False
    share: int = 0
    """Configurations of a namespace on one prefix; 0: any number."""
    _patterns: dict[str, list[_Pattern]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for namespace, text in self.annotations.items():
            self._patterns[namespace] = _entries(text)

    def allows(self, namespace: str, prefix_id: str, *, made_for: str = "") -> bool:
        """Whether configurations of ``namespace`` may use ``prefix_id``. ``made_for``: the
        namespace of the configuration for which the controller has made it."""
        if any(p.clear and p.matches(prefix_id) for p in self._patterns.get(namespace, ())):
            return True
        return not self.strict and made_for in ("", namespace) and not self.owners(prefix_id)

    def owners(self, prefix_id: str) -> list[str]:
        """Namespaces that name it, in order."""
        return sorted(
            namespace
            for namespace, patterns in self._patterns.items()
            if any(p.text != _EVERY and p.matches(prefix_id) for p in patterns)
        )

    def problem(
        self,
        namespace: str,
        prefix_ids: Iterable[str],
        made_for: Callable[[str], str] = lambda _: "",
    ) -> Problem | None:
        """The first of ``prefix_ids`` (empty ones aside) that ``namespace`` may not use.
        ``made_for``: see ``allows``, by id."""
        for prefix_id in prefix_ids:
            if prefix_id and not self.allows(namespace, prefix_id, made_for=made_for(prefix_id)):
                return self._refusal(namespace, prefix_id)
        return None

    def beyond_share(self, live: Iterable[StaticGatewayConfiguration]) -> dict[str, Problem]:
        """By UID, those of ``live`` that are more than their namespace's share of a prefix. Who was
        there first stays."""
        if not self.share:
            return {}
        users: dict[tuple[str, str], list[StaticGatewayConfiguration]] = {}
        for sgc in live:
            for prefix_id in {_known(p) for p in _brought(sgc)} - {""}:
                users.setdefault((sgc.metadata.namespace, prefix_id), []).append(sgc)
        found: dict[str, Problem] = {}
        for (namespace, prefix_id), sharing in users.items():
            if len(sharing) <= self.share or self.owners(prefix_id) == [namespace]:
                continue
            sharing.sort(key=lambda s: (s.metadata.creation_timestamp or "", s.metadata.uid))
            kept = ", ".join(sgc.metadata.name for sgc in sharing[: self.share])
            for sgc in sharing[self.share :]:
                found.setdefault(sgc.metadata.uid, self._too_many(namespace, prefix_id, kept))
        return found

    def _too_many(self, namespace: str, prefix_id: str, kept: str) -> Problem:
        return Problem(
            reason=Reason.PREFIX_SHARE_USED,
            message=f"namespace {namespace} uses its share of public IP prefix {prefix_id} "
            f"({self.share}: {kept}); delete one of these, use another prefix, or ask an "
            "administrator of the cluster to raise controller.settings.prefixShare or to reserve "
            f"the prefix for the namespace ({names.ALLOWED_PREFIXES_ANNOTATION})",
            accepted=False,
        )

    def _refusal(self, namespace: str, prefix_id: str) -> Problem:
        why = (
            "prefixes are used by namespaces that are granted them (strictPrefixes)"
            if self.strict
            # NB: not by whom: that is no business of this namespace's.
            else "it is reserved for other namespaces"
        )
        before = ",".join(p.text for p in self._patterns.get(namespace, ()))
        value = f"{before},{prefix_id}" if before else prefix_id
        return Problem(
            reason=Reason.PREFIX_NOT_ALLOWED,
            message=f"namespace {namespace} may not use public IP prefix {prefix_id}: {why}; an "
            f"administrator of the cluster grants it with: kubectl annotate namespace {namespace} "
            f"--overwrite '{names.ALLOWED_PREFIXES_ANNOTATION}={value}'",
            accepted=False,
        )


def _brought(sgc: StaticGatewayConfiguration) -> tuple[str, ...]:
    """Prefixes that it wants addresses of."""
    if sgc.metadata.deletion_timestamp or not sgc.spec.provision_public_ips:
        return ()
    return sgc.spec.public_ip_prefix_id, sgc.spec.public_ip_prefix_id_v6


def _known(prefix_id: str) -> str:
    """As Azure compares ids."""
    return prefix_id.strip().rstrip("/").casefold()
