"""What a key Secret records: the names of a configuration's resources, and whose it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from egress_gateway.api import names
from egress_gateway.controller.planning.wanted import Names
from egress_gateway.kube.resources import Key


def names_of(uid: str, annotations: Mapping[str, str]) -> Names:
    """The names that a key Secret's annotations give; our own where they say nothing."""
    ours = Names.of(uid)
    config = annotations.get(names.IP_CONFIGURATION_ANNOTATION, "")
    return Names(
        rule=annotations.get(names.RULE_ANNOTATION) or ours.rule,
        ip_config=config if config.startswith(names.MANAGED_PREFIX) else ours.ip_config,
        probe_path=ours.probe_path,
    )


def annotations_of(known: Names) -> dict[str, str]:
    """How ``known`` is written on a key Secret."""
    return {
        names.RULE_ANNOTATION: known.rule,
        names.IP_CONFIGURATION_ANNOTATION: known.ip_config,
    }


def labels(configuration: Key) -> dict[str, str]:
    """Labels of a configuration's key Secret."""
    return {
        names.OWNING_NAMESPACE_LABEL: configuration.namespace,
        # A label's value is shorter than a name may be; agents never select by it.
        names.OWNING_NAME_LABEL: configuration.name[:63].rstrip("-."),
    }
