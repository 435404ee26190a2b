"""``tieline creds``: credentials of least privilege, and why each subject is in them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tieline.cli.options import JsonOption, PodArgument
from tieline.cli.printing import console, print_json, print_table
from tieline.cli.tenant import KEYS, KeysOption
from tieline.deploy.keys import Keys
from tieline.deploy.permissions import Grant, as_conf, client_grants, grants_of, inbox_of, permissions_of
from tieline.deploy.tenants import issue
from tieline.errors import BadSettings
from tieline.pod import Pod
from tieline.services.reference import load_pod

__all__ = ["creds"]


def creds(
    pod: PodArgument,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="What one process runs: agents, tools, audit, metrics; or reader, operator."
        ),
    ],
    tenant: Annotated[str | None, typer.Option(help="Whose credentials; without it none are made.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file.", show_default="KEYS/creds/TENANT/NAME.creds")] = None,
    days: Annotated[
        float | None, typer.Option(min=0, help="How long they are good for.", show_default="for ever")
    ] = None,
    publishes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SUBJECT", help="For a program that is no agent: NAME is its name, and this is all it may do."
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why each subject is there; make nothing.")] = False,
    conf: Annotated[bool, typer.Option("--conf", help="Print the permissions for nats.conf; make nothing.")] = False,
    keys: KeysOption = KEYS,
    json: JsonOption = False,
) -> int:
    """Make the credentials of one process of a pod: what its agents declare, and nothing else."""
    declared = load_pod(pod)
    name = "+".join(names)
    grants = _grants(declared, names, publishes)
    if explain or conf:
        _show(grants, name, as_conf_=conf, as_json=json)
        return 0
    if tenant is None:
        raise BadSettings("whose credentials? give --tenant NAME (tieline tenant ls), or --explain or --conf")
    place = out or keys / "creds" / tenant / f"{name}.creds"
    store = Keys(keys)
    store.write_credentials(place, issue(store, tenant, name, grants, days))
    if json:
        print_json({"file": str(place), "name": name, "tenant": tenant})
    else:
        console().print(f"{place}  (TIELINE_CREDENTIALS={place})", soft_wrap=True)
    return 0


def _grants(pod: Pod, names: list[str], publishes: list[str] | None) -> list[Grant]:
    if publishes is None:
        return grants_of(pod, names)
    if len(names) != 1 or names[0] in pod.agents:
        raise BadSettings(f"--publish is for one program that is no agent of {pod.name}; {', '.join(names)} is not")
    return client_grants(pod, names[0], publishes)


def _show(grants: list[Grant], name: str, *, as_conf_: bool, as_json: bool) -> None:
    allowed = permissions_of(grants, inbox_of(name))
    if as_json:
        print_json([asdict(grant) for grant in grants])
    elif as_conf_:
        print(as_conf(allowed))
    else:
        inbox = Grant("subscribe", f"{inbox_of(name)}.>", name, "its inbox: nobody else reads its replies")
        rows = [(grant.verb, grant.subject, grant.why) for grant in (*grants, inbox)]
        print_table(f"{name} may", ("", "subject", "because"), rows)
