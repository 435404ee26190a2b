"""The key folder: seeds in files that only their owner reads. Nothing in it is ever logged."""

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tieline.deploy.jwt import Key, Limits, new_key
from tieline.errors import BadSettings

__all__ = ["Keys", "Operator", "Tenant", "User", "Visit"]

_FILE, _FOLDER = 0o600, 0o700


@dataclass(frozen=True, slots=True)
class Operator:
    """Who speaks for the server: its own key, the one it signs accounts with, and the system account's."""

    name: str
    key: Key
    signing: Key
    system: Key
    system_user: Key


@dataclass(frozen=True, slots=True)
class User:
    """A user of a tenant that credentials were made for. Its seed is in its credentials and nowhere else."""

    name: str
    public: str
    issued: int
    expires: int | None
    runs: tuple[str, ...]
    """What of the pod it was made for."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Whose guest an account is (the tenant's name, and its account), and where it may send."""

    host: str
    account: str
    subjects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tenant:
    """An account: its keys, what it may hold, its users by public key, and who was revoked when."""

    name: str
    key: Key
    signing: Key
    limits: Limits
    users: Mapping[str, User] = field(default_factory=dict)
    revoked: Mapping[str, int] = field(default_factory=dict)
    retiring: str | None = None
    """The signing key before this one, until it is taken out."""

    visits: Visit | None = None
    """Set for a guest: an account that has nothing but subjects of another."""


class Keys:
    """A folder of keys: ``operator.json`` and ``tenants/<name>.json``. Every change is one rename, under a lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One at a time, over all processes."""
        self._prepare()
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, _FILE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def operator(self) -> Operator:
        """`BadSettings` where there is none yet."""
        record = self._read(self.folder / "operator.json", "no operator yet; `tieline tenant create NAME` makes one")
        keys = {name: Key.of(record[name]) for name in ("key", "signing", "system", "system_user")}
        return Operator(str(record["name"]), **keys)

    def operator_or_new(self) -> Operator:
        """The operator, made now where there was none. Call within `changing`."""
        path = self.folder / "operator.json"
        if not path.exists():
            made = {"key": "operator", "signing": "operator", "system": "account", "system_user": "user"}
            self._write(path, {"name": "tieline"} | {name: new_key(kind).seed for name, kind in made.items()})  # type: ignore[arg-type]
        return self.operator()

    def tenants(self) -> list[Tenant]:
        """All of them, by name."""
        return [self.tenant(path.stem) for path in sorted((self.folder / "tenants").glob("*.json"))]

    def tenant(self, name: str) -> Tenant:
        """`BadSettings` where there is none of that name, with those there are."""
        others = ", ".join(sorted(path.stem for path in (self.folder / "tenants").glob("*.json"))) or "none yet"
        record = self._read(self._place(name), f"no tenant {name!r}; there are {others}")
        try:
            users = {key: User(**{**told, "runs": tuple(told["runs"])}) for key, told in record["users"].items()}
            keys = Key.of(record["key"]), Key.of(record["signing"])
            visit = record.get("visits")  # not in what earlier versions wrote
            visits = Visit(visit["host"], visit["account"], tuple(visit["subjects"])) if visit else None
            limits = Limits(**record["limits"])
            return Tenant(name, *keys, limits, users, record["revoked"], record["retiring"], visits)
        except (LookupError, TypeError, ValueError) as error:
            raise self._damaged(self._place(name), error) from error

    def keep(self, tenant: Tenant) -> None:
        """Write a tenant, over what was there. Call within `changing`."""
        record = {
            "key": tenant.key.seed,
            "signing": tenant.signing.seed,
            "limits": {name: getattr(tenant.limits, name) for name in Limits.__slots__},
            "users": {key: _told(user) for key, user in tenant.users.items()},
            "revoked": dict(tenant.revoked),
            "retiring": tenant.retiring,
            "visits": None if tenant.visits is None else asdict(tenant.visits),
        }
        self._write(self._place(tenant.name), record)

    def forget(self, name: str) -> None:
        """Remove a tenant's keys for good. Call within `changing`."""
        self._place(name).unlink()

    def write_credentials(self, path: Path, text: str) -> None:
        """A credentials file, for its owner's eyes only, over one that was there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)

    def _place(self, name: str) -> Path:
        return self.folder / "tenants" / f"{name}.json"

    def _prepare(self) -> None:
        for folder in (self.folder, self.folder / "tenants"):
            folder.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
            _check(folder)
        ignore = self.folder / ".gitignore"
        if not ignore.exists():
            _replace(ignore, "*\n")

    def _read(self, path: Path, missing: str) -> dict[str, Any]:
        if not path.exists():
            raise BadSettings(f"{self.folder}: {missing}")
        _check(path)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise self._damaged(path, error) from error
        return record

    def _damaged(self, path: Path, error: Exception) -> BadSettings:
        return BadSettings(
            f"{path} cannot be read ({type(error).__name__}); put it back from your copy of {self.folder}"
        )

    def _write(self, path: Path, record: Mapping[str, Any]) -> None:
        _replace(path, json.dumps(record, indent=1))


def _told(user: User) -> dict[str, Any]:
    return {name: getattr(user, name) for name in User.__slots__}


def _replace(path: Path, text: str) -> None:
    """Write a file that only its owner reads, from its first byte on; whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _check(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        raise BadSettings(f"{path} can be read by others (mode {mode:o}); chmod {wanted} {path}")
