"""JWTs and keys: signed, checked, and in files that only their owner reads."""

import base64
import json
import logging
from pathlib import Path

import pytest

from tieline import Pod
from tieline.deploy import tenants
from tieline.deploy.jwt import Key, Limits, account_jwt, credentials_text, new_key, operator_jwt, user_jwt
from tieline.deploy.keys import Keys
from tieline.deploy.permissions import Permissions, grants_of
from tieline.errors import BadSettings
from tieline.wire.credentials import read_credentials, verified

OPERATOR, ACCOUNT, USER = new_key("operator"), new_key("account"), new_key("user")


def test_keys_say_what_they_are_of_and_hide_their_seed() -> None:
    assert [key.public[0] for key in (OPERATOR, ACCOUNT, USER)] == ["O", "A", "U"]
    assert [key.seed[:2] for key in (OPERATOR, ACCOUNT, USER)] == ["SO", "SA", "SU"]
    assert USER.seed not in repr(USER)
    assert Key.of(USER.seed) == USER
    with pytest.raises(ValueError, match="no seed"):
        Key.of(USER.seed[:20] + ("B" if USER.seed[20] == "A" else "A") + USER.seed[21:])


def test_what_is_signed_is_checked() -> None:
    jwt = user_jwt(USER.public, "booking", ACCOUNT.public, ACCOUNT, Permissions(("a.b",), ("c",)), 1e10)
    claims = verified(jwt)
    assert (claims["sub"], claims["iss"], claims["exp"]) == (USER.public, ACCOUNT.public, 10**10)
    assert claims["nats"]["pub"] == {"allow": ["a.b"]}
    head, body, signature = jwt.split(".")
    told = json.loads(base64.urlsafe_b64decode(body + "=="))
    told["nats"]["pub"]["allow"] = [">"]
    forged = base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")
    for wrong in (f"{head}.{forged}.{signature}", f"{head}.{body}.{signature[:-4]}AAAA", "rubbish", "a.b.c"):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
            verified(wrong)


def test_who_may_publish_nothing_may_publish_nothing() -> None:
    """An empty list of what is allowed would allow everything."""
    claims = verified(user_jwt(USER.public, "x", ACCOUNT.public, ACCOUNT, Permissions((), ("a",)), None))
    assert claims["nats"]["pub"] == {"deny": [">"]}


def test_an_account_has_its_limits_and_its_traffic_is_its_own() -> None:
    jwt = account_jwt(ACCOUNT.public, OPERATOR, Limits(storage=5, connections=3), (USER.public,), {"*": 7})
    nats = verified(jwt)["nats"]
    assert (nats["limits"]["disk_storage"], nats["limits"]["conn"], nats["limits"]["leaf"]) == (5, 3, 0)
    assert (nats["cluster_traffic"], nats["revocations"], nats["signing_keys"]) == ("owner", {"*": 7}, [USER.public])
    system = verified(account_jwt(ACCOUNT.public, OPERATOR, None, (), {}))["nats"]
    assert system["limits"]["disk_storage"] == 0
    assert verified(operator_jwt(OPERATOR, "o", OPERATOR, ACCOUNT.public))["nats"]["system_account"] == ACCOUNT.public
    with pytest.raises(ValueError, match="storage must be -1"):
        Limits(storage=-2)


def test_a_credentials_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    allowed = Permissions(("a.b",), ("_INBOX_booking.>",))
    jwt = user_jwt(USER.public, "booking", ACCOUNT.public, OPERATOR, allowed, 1e10)
    path = tmp_path / "booking.creds"
    Keys(tmp_path).write_credentials(path, credentials_text(jwt, USER.seed))
    found = read_credentials(path)
    assert (found.name, found.user, found.account) == ("booking", USER.public, ACCOUNT.public)
    assert (found.expires, found.inbox, found.publish) == (1e10, "_INBOX_booking", ("a.b",))
    assert path.stat().st_mode & 0o777 == 0o600
    assert USER.seed not in repr(found)
    for wrong, match in ((tmp_path / "none.creds", "cannot be read"), (__file__, "is no credentials file")):
        with pytest.raises(BadSettings, match=match):
            read_credentials(Path(wrong))


def test_keys_are_their_owners_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys = Keys(tmp_path / "keys")
    made = tenants.create(keys, "acme", Limits(streams=9))
    files = [path for path in keys.folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (keys.folder, keys.folder / "tenants")} == {0o700}
    assert (keys.folder / ".gitignore").read_text() == "*\n"
    assert keys.tenant("acme").limits == Limits(streams=9)
    assert not any(secret in repr(made) + caplog.text for secret in (made.key.seed, made.signing.seed))

    (keys.folder / "tenants" / "acme.json").chmod(0o644)
    with pytest.raises(BadSettings, match=r"can be read by others \(mode 644\); chmod 600"):
        keys.tenant("acme")
    (keys.folder / "tenants" / "acme.json").chmod(0o600)
    (keys.folder / "tenants" / "acme.json").write_text('{"key": "SA')
    with pytest.raises(BadSettings, match=r"acme\.json cannot be read"):
        tenants.create(keys, "acme", Limits())
    with pytest.raises(BadSettings, match="no tenant 'other'; there are acme"):
        keys.tenant("other")


@pytest.mark.parametrize("name", ["", "a.b", "../x", "SYS", "a b"])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadSettings, match="use letters"):
        tenants.create(Keys(tmp_path / "keys"), name, Limits())


def test_a_rotation_has_two_halves(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    old = tenants.create(keys, "acme", Limits()).signing.public
    new = tenants.rotate(keys, "acme", finish=False).signing.public
    signing = verified(tenants.token_of(keys.tenant("acme"), keys.operator()))["nats"]["signing_keys"]
    assert set(signing) == {old, new}
    with pytest.raises(BadSettings, match="is being rotated"):
        tenants.rotate(keys, "acme", finish=False)
    tenants.rotate(keys, "acme", finish=True)
    assert verified(tenants.token_of(keys.tenant("acme"), keys.operator()))["nats"]["signing_keys"] == [new]


def test_users_are_known_by_name_and_revoked(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    tenants.create(keys, "acme", Limits())
    text = tenants.issue(keys, "acme", "boss", grants_of(Pod("p"), ["operator"]), days=1)
    assert "NATS USER JWT" in text
    [user] = keys.tenant("acme").users.values()
    assert (user.name, user.runs, user.expires) == ("boss", ("operator",), user.issued + 86400)
    with pytest.raises(BadSettings, match="no user 'other'; it has boss"):
        tenants.revoke(keys, "acme", "other")
    tenants.revoke(keys, "acme", "boss")
    assert set(keys.tenant("acme").revoked) == {user.public}
