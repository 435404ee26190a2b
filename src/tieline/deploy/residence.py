"""A pod that runs as a tenant: its account, and credentials for each of its processes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tieline.deploy.jwt import Key, Limits
from tieline.deploy.keys import Keys
from tieline.deploy.permissions import grants_of
from tieline.deploy.tenants import create, issue, operator_mode, push
from tieline.errors import BadSettings
from tieline.pod import Pod
from tieline.server.config import OperatorMode
from tieline.services.supervisor import Process
from tieline.settings import Settings
from tieline.wire.credentials import read_credentials

__all__ = ["Residence"]


class Residence:
    """Credentials are made anew at each start, for the users of the start before."""

    def __init__(self, keys: Keys, tenant: str, pod: Pod) -> None:
        self._keys = keys
        self._tenant = tenant
        self._pod = pod
        self.operator = self._place("operator")
        """Credentials of who makes the pod's streams, once `admitted` has made them."""

    def settled(self) -> OperatorMode:
        """What a server of our own is told. The tenant is made where there is none, without limits."""
        try:
            self._keys.tenant(self._tenant)
        except BadSettings:
            create(self._keys, self._tenant, Limits())
        return operator_mode(self._keys)

    async def admitted(self, processes: Sequence[Process], urls: tuple[str, ...]) -> list[Process]:
        """The processes, each with credentials of its own, of which the server knows. Raises `NotApplied`."""
        made = self.issued(process.name for process in processes)
        settings = Settings.from_environment().connection
        await push(self._keys, replace(settings, servers=urls), [self._tenant])
        return [replace(process, credentials=made[process.name]) for process in processes]

    def issued(self, names: Iterable[str]) -> dict[str, Path]:
        """Credentials files for processes of these names, and for the operator, by name. No server is asked."""
        self._keys.tenant(self._tenant)
        made = {}
        for name in ("operator", *names):
            self._admit(name)
            made[name] = self._place(name)
        return made

    def _admit(self, name: str) -> None:
        """The same user at each start, allowed what the pod declares now."""
        place, user = self._place(name), None
        if place.exists():
            user = Key.of(read_credentials(place).seed)
        grants = grants_of(self._pod, [name])
        self._keys.write_credentials(place, issue(self._keys, self._tenant, self._named(name), grants, user=user))

    def _named(self, name: str) -> str:
        """Several pods of a tenant each have an operator and an audit."""
        return f"{self._pod.name}-{name}"

    def _place(self, name: str) -> Path:
        return self._keys.folder / "creds" / self._tenant / f"{self._named(name)}.creds"
