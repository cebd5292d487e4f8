"""Which field of a document is not as it was written: for the person who looks for who undid it."""

from __future__ import annotations

from dataclasses import fields

from egress_gateway.cloud.protocol import (
    Action,
    BalancingRule,
    InterfaceSpec,
    MakeAddresses,
    PoolState,
    WriteBalancer,
    WriteInstance,
    WriteModel,
)

_FIELDS = {
    "port": "frontendPort",
    "backend_port": "backendPort",
    "frontend": "frontendIPConfiguration",
    "pool": "backendAddressPool",
    "protocol": "protocol",
    "floating": "enableFloatingIP",
    "probe_path": "probe's requestPath",
    "probe_port": "probe's port",
    "probe_protocol": "probe's protocol",
    "probe_interval": "probe's intervalInSeconds",
    "probe_threshold": "probe's probeThreshold",
}
"""Fields of a ``Rule``, as the cloud's document calls them."""


def difference(action: Action, state: PoolState) -> str:
    """The first field in which ``state`` differs from what ``action`` writes."""
    match action:
        case WriteBalancer():
            return _balancer(action, state)
        case WriteModel():
            return f"{_interface(action, state.model)} of the pool's model"
        case WriteInstance():
            found = next((i for i in state.instances if i.id == action.instance), None)
            if found is None:
                return action.instance
            what = _interface(action, found.interface) or _on_nic(action, found.addresses)
            return f"{what or 'the document'} of {found.name}"
        case MakeAddresses():
            return f"publicIPPrefix of a public IP address for {action.instance}"
        case _:
            return type(action).__name__


def _interface(action: WriteModel | WriteInstance, found: InterfaceSpec) -> str:
    """Empty if nothing differs."""
    for name, prefix in action.configs.items():
        if name not in found.configs:
            return f"ipConfig {name}"
        if found.configs[name] != (prefix.lower() if prefix else None):
            return f"publicIPPrefix of ipConfig {name}"
    stale = found.configs.keys() & action.owned - action.configs.keys()
    if stale:
        return f"the removal of ipConfig {min(stale)}"
    if action.joined != found.joined:
        return "loadBalancerBackendAddressPools of the primary ipConfig"
    return ""


def _on_nic(action: WriteInstance, addresses: object) -> str:
    found = addresses if isinstance(addresses, dict) else {}
    for name, prefix in action.configs.items():
        address = found.get(name)
        if address is None or not address.secondary:
            return f"privateIPAddress of ipConfig {name} on the network interface"
        if prefix and not address.public:
            return f"publicIPAddress of ipConfig {name} on the network interface"
    return ""


def _balancer(action: WriteBalancer, state: PoolState) -> str:
    found = state.balancer
    for rule in action.rules:
        known = found.rules.get(rule.name)
        if known is None:
            return f"rule {rule.name} of the load balancer"
        if known != rule:
            return f"{_field(rule, known)} of rule {rule.name} of the load balancer"
    return f"what pool {action.pool.key} has on the load balancer"


def _field(wanted: BalancingRule, found: BalancingRule) -> str:
    differs = (
        f.name for f in fields(BalancingRule) if getattr(wanted, f.name) != getattr(found, f.name)
    )
    return next((_FIELDS[name] for name in differs if name in _FIELDS), "a field")
