"""What ``egress-gateway migrate`` found, as a document with stable keys and as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from egress_gateway.api import names
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.controller.migration.adopt import Adoption, Leftovers
from egress_gateway.controller.observed.record import names_of

Report = dict[str, Any]


def report(
    found: Leftovers,
    adoptions: Sequence[Adoption],
    lost: Mapping[str, str],
    *,
    blockers: Sequence[Mapping[str, str]],
    remains: Sequence[str],
    azure: Mapping[str, Any] | None,
    acted: bool,
    keys_namespace: str,
) -> Report:
    """``acted``: the actions were carried out, not merely planned."""
    by_uid = {adoption.uid: adoption for adoption in adoptions}
    entries = [
        _configuration(sgc, by_uid.pop(sgc.metadata.uid, None), found, lost, keys_namespace)
        for sgc in sorted(
            found.configurations, key=lambda s: (s.metadata.namespace, s.metadata.name)
        )
    ]
    entries += [_orphan(adoption, keys_namespace) for adoption in by_uid.values()]
    return {
        "acted": acted,
        "blockers": [
            *blockers,
            *({"what": d.what, "mend": d.mend} for a in adoptions if (d := a.dispute)),
        ],
        "configurations": entries,
        "azure": azure,
        "remains": list(remains),
    }


def _configuration(
    sgc: StaticGatewayConfiguration,
    adoption: Adoption | None,
    found: Leftovers,
    lost: Mapping[str, str],
    keys_namespace: str,
) -> Report:
    uid = sgc.metadata.uid
    secret = names.key_secret(uid)
    written = next((s.metadata.annotations for s in found.secrets if s.metadata.name == secret), {})
    known = adoption.names if adoption else names_of(uid, written)
    profile = sgc.status.gateway_server_profile
    actions = []
    if uid in lost:
        actions.append(_action(f"Secret {lost[uid]}/{secret}", "copy", f"to {keys_namespace}"))
    if adoption and not adoption.dispute:
        actions += _actions(adoption, keys_namespace)
    return {
        "configuration": f"{sgc.metadata.namespace}/{sgc.metadata.name}",
        "uid": uid,
        "state": _state(adoption, known.rule != uid),
        "names": _names(known.rule, known.ip_config, secret),
        "keeps": {
            "egressIpPrefix": sgc.status.egress_ip_prefix,
            "address": profile.ip,
            "port": profile.port,
            "publicKey": profile.public_key,
        },
        "actions": actions,
    }


def _state(adoption: Adoption | None, foreign: bool) -> str:
    if adoption is None:
        return "taken over before" if foreign else "ours"
    return "disputed" if adoption.dispute else "to be taken over"


def _orphan(adoption: Adoption, keys_namespace: str) -> Report:
    """Objects whose configuration is gone: they are released, what they made is removed."""
    return {
        "configuration": str(adoption.configuration),
        "uid": adoption.uid,
        "state": "deleted; its Azure resources are removed by the controller",
        "names": _names(
            adoption.names.rule, adoption.names.ip_config, names.key_secret(adoption.uid)
        ),
        "keeps": {},
        "actions": [] if adoption.dispute else _actions(adoption, keys_namespace),
    }


def _names(rule: str, ip_config: str, secret: str) -> Report:
    return {"loadBalancerRule": rule, "ipConfiguration": ip_config, "secret": secret}


def _actions(adoption: Adoption, keys_namespace: str) -> list[dict[str, str]]:
    actions = []
    if adoption.record:
        secret = f"Secret {keys_namespace}/{names.key_secret(adoption.uid)}"
        text = ", ".join(f"{key}={value}" for key, value in sorted(adoption.record.items()))
        actions.append(_action(secret, "annotate", text))
    for release in adoption.releases:
        what = f"{release.resource.kind} {release.key}"
        actions.append(_action(what, "release", "take finalizers and owners off"))
        actions.append(_action(what, "delete", f"only the object with UID {release.uid}"))
    return actions


def _action(what: str, verb: str, detail: str) -> dict[str, str]:
    return {"object": what, "action": verb, "detail": detail}


def render(found: Report) -> str:
    """``report``'s result for a terminal."""
    lines = []
    for blocker in found["blockers"]:
        lines += [f"STANDS IN THE WAY: {blocker['what']}", f"  {blocker['mend']}"]
    for entry in found["configurations"]:
        lines += _entry(entry, found["acted"])
    if not found["configurations"]:
        lines.append("no StaticGatewayConfiguration")
    if found["azure"] is not None:
        lines += _azure(found["azure"])
    if found["remains"]:
        lines.append("afterwards, when `egress-gateway status` shows all ready, remove the rest:")
        lines += [f"  {command}" for command in found["remains"]]
    return "\n".join(lines) + "\n"


def _entry(entry: Report, acted: bool) -> list[str]:
    state = entry["state"]
    if acted and state == "to be taken over":
        state = "taken over"
    keeps = entry["keeps"]
    lines = [f"{entry['configuration']}: {state}"]
    if keeps:
        lines.append(
            f"  keeps {keeps['egressIpPrefix'] or 'no prefix yet'}, "
            f"server {keeps['address']}:{keeps['port']}, key {keeps['publicKey'] or 'none yet'}"
        )
    said = entry["names"]
    lines.append(
        f"  names: rule {said['loadBalancerRule']}, ipConfig and prefix {said['ipConfiguration']}"
    )
    verb = "did" if acted else "would"
    lines += [f"  {verb} {a['action']} {a['object']} ({a['detail']})" for a in entry["actions"]]
    return lines


def _azure(azure: Mapping[str, Any]) -> list[str]:
    lines = [f"Azure: {name}: {text}" for name, text in azure["problems"].items()]
    if not azure["writes"]:
        return [*lines, "Azure: the controller's first pass would write nothing"]
    return [*lines, *(f"Azure: would {line}" for line in azure["writes"])]
