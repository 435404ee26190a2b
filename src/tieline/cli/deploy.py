"""``tieline deploy``: files of what runs a pod in production."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from tieline.cli.options import JsonOption, PodArgument, byte_count
from tieline.cli.printing import console, print_json
from tieline.cli.tenant import KEYS, KeysOption
from tieline.deploy.compose import compose as compose_files
from tieline.deploy.docker import Image
from tieline.deploy.files import write
from tieline.deploy.image_sources import given_sources, sources_of
from tieline.deploy.keys import Keys
from tieline.deploy.kubernetes import kubernetes as kubernetes_files
from tieline.deploy.process import keeps_files
from tieline.deploy.residence import Residence
from tieline.deploy.site import USER, File, Servers, Site, confs
from tieline.deploy.systemd import Paths
from tieline.deploy.systemd import systemd as systemd_files
from tieline.deploy.tenants import operator_mode
from tieline.services.reference import load_pod
from tieline.services.supervisor import processes_of

__all__ = ["deploy"]

deploy = typer.Typer(help="Files of what runs a pod in production: servers, processes, credentials, probes.")

TenantOption = Annotated[
    str | None, typer.Option(help="Whose pod it is; made where there is none.", show_default="the pod's name")
]
CountOption = Annotated[int, typer.Option("--servers", help="1, or 3 for a cluster.")]
HostsOption = Annotated[str, typer.Option(metavar="A,B,C", help="The machines of the servers, by commas.")]
StorageOption = Annotated[str, typer.Option(help="Disk of each server.")]
SyncOption = Annotated[str, typer.Option(help="When an acknowledged message is on the disk; `always`, or 10s.")]
TlsOption = Annotated[
    bool, typer.Option("--tls", help="Encrypted; tls.crt, tls.key and ca.crt are yours to put there.")
]
ImageOption = Annotated[str | None, typer.Option(help="Of the processes.", show_default="POD:latest")]
NatsImageOption = Annotated[str, typer.Option(help="Of the servers.")]
InstallOption = Annotated[
    list[str] | None,
    typer.Option(
        "--install", metavar="PATH", help="What pip installs in the image; repeat it.", show_default="the pod's project"
    ),
]
OutOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Where to.", show_default="deploy/KIND")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that we did not render.")]

_NATS_IMAGE = "nats:2.15.1-alpine"
_STORAGE = "20GB"


@deploy.command()
def nats(
    count: CountOption = 3,
    hosts: HostsOption = "",
    storage: StorageOption = _STORAGE,
    sync: SyncOption = "always",
    tls: TlsOption = False,
    data: Annotated[Path, typer.Option(help="Folder of the streams, on the servers.")] = Path("/var/lib/nats"),
    certificates: Annotated[Path, typer.Option(help="Folder of the certificates.")] = Path("/etc/nats/tls"),
    open_: Annotated[
        bool, typer.Option("--open", help="One account, and no credentials: for a network nobody else reaches.")
    ] = False,
    keys: KeysOption = KEYS,
    out: OutOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> int:
    """The nats.conf of each server. It knows the tenants there are now; `tieline tenant push` tells it of others."""
    servers = _servers(count, hosts, storage, sync, tls=tls)
    names = servers.hosts or tuple(f"nats-{number}" for number in range(count))
    found = confs(servers, None if open_ else operator_mode(Keys(keys)), names, data, certificates)
    files = {f"{name}.conf": File(text) for name, text in found.items()}
    place = out or Path("deploy/nats")
    return _written(place, files, [f"nats-server -c {name}" for name in files], force=force, as_json=json)


@deploy.command()
def compose(
    pod: PodArgument,
    tenant: TenantOption = None,
    count: CountOption = 1,
    storage: StorageOption = _STORAGE,
    sync: SyncOption = "always",
    tls: TlsOption = False,
    image: ImageOption = None,
    nats_image: NatsImageOption = _NATS_IMAGE,
    install: InstallOption = None,
    keys: KeysOption = KEYS,
    out: OutOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> int:
    """A compose file: the servers, and a container for each process, with credentials as secrets."""
    site = _site(pod, tenant, keys, _servers(count, "", storage, sync, tls=tls), (image, nats_image))
    place = out or Path("deploy/compose")
    # Secrets are files with their owner: the containers run as whoever that is, and never as root.
    user = os.getuid() or USER
    image_ = _image(pod, site, place, install)
    files = compose_files(site, f"{user}:{os.getgid() or USER}", image_)
    kept = [process.name for process in site.processes if keeps_files(site, process.name)]
    for name in [*(f"nats-{server}" for server in range(count)), *kept]:
        _given(place / "data" / name, user)
    steps = [*image_.steps(), f"docker compose -f {place}/compose.yaml up --build --detach"]
    return _written(place, files, steps, force=force, as_json=json, owner=user)


@deploy.command()
def kubernetes(
    pod: PodArgument,
    tenant: TenantOption = None,
    namespace: Annotated[str | None, typer.Option(help="Where it all is.", show_default="the pod's name")] = None,
    count: CountOption = 3,
    storage: StorageOption = _STORAGE,
    sync: SyncOption = "always",
    tls: TlsOption = False,
    most: Annotated[int, typer.Option(min=1, help="How many of an agent KEDA may run.")] = 10,
    image: ImageOption = None,
    nats_image: NatsImageOption = _NATS_IMAGE,
    install: InstallOption = None,
    keys: KeysOption = KEYS,
    out: OutOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> int:
    """Manifests: a StatefulSet of servers, a Deployment for each process, Secrets, probes, and KEDA's scaling."""
    site = _site(pod, tenant, keys, _servers(count, "", storage, sync, tls=tls), (image, nats_image))
    place = out or Path("deploy/kubernetes")
    image_ = _image(pod, site, place, install)
    files = kubernetes_files(site, namespace or site.pod.name, most, image_)
    steps = [*image_.steps(), f"docker build -f {place}/Dockerfile -t {site.image} . && docker push {site.image}"]
    if tls:
        steps.append(
            "kubectl create secret generic nats-tls --from-file=tls.crt --from-file=tls.key --from-file=ca.crt"
        )
    steps += [f"kubectl apply -f {place}", f"kubectl apply -f {place}/scaling     # where KEDA is installed"]
    return _written(place, files, steps, force=force, as_json=json)


@deploy.command()
def systemd(
    pod: PodArgument,
    tenant: TenantOption = None,
    count: CountOption = 1,
    hosts: HostsOption = "",
    storage: StorageOption = _STORAGE,
    sync: SyncOption = "always",
    tls: TlsOption = False,
    prefix: Annotated[
        Path | None,
        typer.Option(help="The virtual environment with the pod, on the machine.", show_default="/opt/POD"),
    ] = None,
    nats_server: Annotated[
        Path | None, typer.Option(help="The program nats-server, on the machine.", show_default="PREFIX/bin")
    ] = None,
    keys: KeysOption = KEYS,
    out: OutOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> int:
    """Units of systemd, hardened: the server, and one for each process, with credentials as systemd hands them over."""
    site = _site(pod, tenant, keys, _servers(count, hosts, storage, sync, tls=tls), (None, _NATS_IMAGE))
    place = out or Path("deploy/systemd")
    files = systemd_files(site, Paths(prefix or Path(f"/opt/{site.pod.name}"), nats_server))
    steps = [
        f"cp -r {place}/etc /     # on each machine, as root",
        f"systemctl daemon-reload && systemctl enable --now tieline-nats {site.pod.name}.target",
    ]
    if count == 3:
        steps.insert(1, "cp /etc/tieline/nats-N.conf /etc/tieline/nats.conf     # N: 0, 1, 2, as in --hosts")
    return _written(place, files, steps, force=force, as_json=json)


def _servers(count: int, hosts: str, storage: str, sync: str, *, tls: bool) -> Servers:
    named = tuple(host.strip() for host in hosts.split(",") if host.strip())
    return Servers(count=count, hosts=named, storage=byte_count("--storage", storage), sync=sync, tls=tls)


def _site(reference: str, tenant: str | None, keys: Path, servers: Servers, images: tuple[str | None, str]) -> Site:
    pod = load_pod(reference)
    store, owner = Keys(keys), tenant or pod.name
    residence, processes = Residence(store, owner, pod), tuple(processes_of(pod, metrics=True))
    residence.settled()
    issued = residence.issued(process.name for process in processes)
    return Site(
        pod=pod,
        reference=reference,
        processes=processes,
        operator=operator_mode(store),
        account=store.tenant(owner).key.public,
        credentials={name: path.read_text(encoding="utf-8") for name, path in issued.items()},
        servers=servers,
        image=images[0] or f"{pod.name}:latest",
        nats_image=images[1],
    )


def _image(reference: str, site: Site, place: Path, installs: list[str] | None) -> Image:
    return Image(site.image, place, given_sources(installs) if installs else sources_of(reference, Path.cwd()))


def _given(folder: Path, user: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, user, user)


def _written(
    place: Path,
    files: Mapping[str, File],
    steps: Sequence[str],
    *,
    force: bool,
    as_json: bool,
    owner: int | None = None,
) -> int:
    paths = write(place, files, force=force, owner=owner)
    if as_json:
        print_json({"folder": str(place), "files": sorted(files), "steps": list(steps)})
        return 0
    for path, file in zip(paths, files.values(), strict=True):
        console().print(f"{path}{'  [yellow]secret[/yellow]' if file.secret else ''}", soft_wrap=True)
    console().print("next:" if len(steps) == 1 else "next, in turn:")
    for step in steps:
        console().print(f"  {step}", soft_wrap=True, markup=False, highlight=False)
    return 0
