"""``egress-gateway lab fault``: make Azure say no, as it does in life.

A rule waits in the emulator for requests that match it, acts as often as it was told to and stays
listed with the number of times that it acted, so that a person sees whether the fault was met.
"""

from __future__ import annotations

import json
from typing import Any, get_args

import click

from egress_gateway_lab.azure.faults import Denial, Kind, OperationShape
from egress_gateway_lab.commands.running import call_lab, lab_handle, name_option, output_option


@click.group()
def fault() -> None:
    """Make chosen requests to Azure fail the way Azure fails.

    \b
    conflict        409 AnotherOperationInProgress
    throttle        429 with --retry-after
    error           --status and --code
    cut             the request is carried out, the connection breaks in mid-answer
    fail-operation  accepted, then the operation ends as Failed with --code
    delay           the answer comes --seconds later
    shape           the operation is announced by other headers (--shape)
    html            --status and a front door's page in place of JSON
    answer          --status, --header and --body in place of Azure's answer
    garble          the same, and the request is carried out all the same
    deny            403 by a deny assignment or for a foreign tenant (--denial)
    cancel-operation  accepted, then the operation ends as Canceled
    hang            accepted, then the operation does not end until the fault is cleared
    strip           when the operation ends, the instances' NICs have lost their further
                    addresses, and their documents still name them (a rollout in place)
    modify          the write is carried out without the members called --drop (a policy)
    join-pool       just before, somebody adds --pool to the scale set's model (a Service)

    `quota` sets how many public addresses the subscription may have.
    """


@fault.command()
@name_option
@output_option
@click.argument("kind", type=click.Choice(get_args(Kind)))
@click.option("--method", default="*", show_default=True, help="Such as PUT; * is any.")
@click.option(
    "--path",
    default="^/subscriptions/",
    show_default=True,
    help="Regular expression, searched in the request's path without regard to case.",
)
@click.option("--times", type=click.IntRange(1), default=1, show_default=True, help="Requests.")
@click.option("--always", is_flag=True, help="Until it is cleared, however many requests.")
@click.option("--status", type=click.IntRange(200, 599), default=500, show_default=True)
@click.option("--code", default="InternalServerError", show_default=True, help="ARM error code.")
@click.option("--message", default="An error occurred.", show_default=True)
@click.option(
    "--retry-after", type=click.IntRange(1), default=1, show_default=True, help="Seconds."
)
@click.option("--seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="Delay.")
@click.option(
    "--shape",
    type=click.Choice(get_args(OperationShape)),
    default="both",
    show_default=True,
    help="Azure-AsyncOperation, Location, or both.",
)
@click.option(
    "--denial",
    type=click.Choice(get_args(Denial)),
    default="assignment",
    show_default=True,
    help="A deny assignment at the resource, at what it refers to, or another tenant.",
)
@click.option("--body", default="", help="Of the answer.")
@click.option("--content-type", default="application/json", show_default=True)
@click.option(
    "--header",
    "headers",
    type=(str, str),
    multiple=True,
    help="NAME VALUE, of the answer; may be repeated.",
)
@click.option("--drop", default="publicIPPrefix", show_default=True, help="Name of a JSON member.")
@click.option("--pool", default="", help="Id of a load balancer's backend pool.")
def add(
    name: str,
    output: str,
    always: bool,
    times: int,
    headers: tuple[tuple[str, str], ...],
    **rule: Any,
) -> None:
    """Add a rule of KIND; prints its number."""
    arguments = {**rule, "headers": dict(headers), "times": None if always else times}
    added = call_lab(lab_handle(name), "fault", **arguments)["added"]
    click.echo(json.dumps(added) if output == "json" else added["id"])


@fault.command("list")
@name_option
@output_option
def list_rules(name: str, output: str) -> None:
    """List the rules and how often each has acted."""
    rules = call_lab(lab_handle(name), "fault")["faults"]
    if output == "json":
        click.echo(json.dumps(rules))
        return
    for rule in rules:
        limit = "always" if rule["times"] is None else f"of {rule['times']}"
        click.echo(
            f"{rule['id']}\t{rule['kind']}\t{rule['method']} {rule['path']}\t"
            f"acted {rule['hits']} {limit}"
        )


@fault.command()
@name_option
@click.argument("numbers", nargs=-1, type=int)
def clear(name: str, numbers: tuple[int, ...]) -> None:
    """Remove the rules NUMBERS, or all of them."""
    call_lab(lab_handle(name), "fault", clear=list(numbers) or True)
    click.echo(f"cleared: {', '.join(map(str, numbers)) or 'all rules'}")


@fault.command()
@name_option
@output_option
@click.argument("addresses", type=click.IntRange(0), required=False)
def quota(name: str, output: str, addresses: int | None) -> None:
    """Limit the subscription to this many public ADDRESSES, those of prefixes included.

    Without ADDRESSES, show the limit. What exists beyond it stays.
    """
    wanted = {} if addresses is None else {"public_addresses": addresses}
    found = call_lab(lab_handle(name), "quota", **wanted)
    if output == "json":
        click.echo(json.dumps(found))
    else:
        click.echo(f"{found['used']} of {found['public_addresses']} public addresses are used")
