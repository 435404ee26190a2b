"""Settings: a frozen tree that refuses nonsense with the name of what is wrong."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tieline.errors import BadSettings
from tieline.settings import ConnectionSettings, Limits, PublishSettings, Settings, variables


def test_defaults_are_what_an_empty_environment_gives() -> None:
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"PATH": "/bin", "TIELIN": "x"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "group", "name", "value"),
    [
        ("TIELINE_SERVERS", "nats://a:1, nats://b:2,", "connection", "servers", ("nats://a:1", "nats://b:2")),
        ("TIELINE_CREDENTIALS", "/run/a.creds", "connection", "credentials", Path("/run/a.creds")),
        ("TIELINE_INBOX_PREFIX", "_INBOX_a1", "connection", "inbox_prefix", "_INBOX_a1"),
        ("TIELINE_CONNECT_TIMEOUT", "2s", "connection", "connect_timeout", 2.0),
        ("TIELINE_REQUEST_TIMEOUT", "250ms", "connection", "request_timeout", 0.25),
        ("TIELINE_RECONNECT", "5m", "connection", "reconnect", 300.0),
        ("TIELINE_PING_INTERVAL", "7.5", "connection", "ping_interval", 7.5),
        ("TIELINE_PUBLISH_PATIENCE", "60", "publish", "patience", 60.0),
        ("TIELINE_PUBLISH_ACK_TIMEOUT", "1s", "publish", "ack_timeout", 1.0),
    ],
)
def test_each_variable(variable: str, text: str, group: str, name: str, value: object) -> None:
    settings = Settings.from_environment({variable: text})
    assert getattr(getattr(settings, group), name) == value
    defaults = Settings()
    changed = dataclasses.replace(getattr(defaults, group), **{name: value})
    assert settings == dataclasses.replace(defaults, **{group: changed})


@pytest.mark.parametrize(("text", "value"), [("on", True), ("1", True), ("TRUE", True), ("no", False), ("off", False)])
def test_the_audit_is_on_or_off(text: str, value: bool) -> None:
    assert Settings.from_environment({"TIELINE_AUDIT": text}).audit is value


def test_what_is_large_is_a_number_of_bytes() -> None:
    assert Settings.from_environment({"TIELINE_LARGE": "65536"}).large == 65536
    for text in ("1MB", "-5", "", "1e6", "100"):
        with pytest.raises(BadSettings):
            Settings.from_environment({"TIELINE_LARGE": text})


def test_metrics_have_a_port_or_are_off() -> None:
    for given, port in (("0", 0), ("9100", 9100), ("off", None)):
        assert Settings.from_environment({"TIELINE_METRICS_PORT": given}).metrics_port == port
    for text in ("", "-1", "65536", "http"):
        with pytest.raises(BadSettings, match="TIELINE_METRICS_PORT"):
            Settings.from_environment({"TIELINE_METRICS_PORT": text})
    with pytest.raises(BadSettings, match="metrics_port"):
        Settings(metrics_port=70_000)


def test_every_variable_is_told() -> None:
    assert {variable.removeprefix("TIELINE_") for variable in variables()} >= {"TLS_CA", "METRICS_PORT", "CREDENTIALS"}
    assert "TIELINE_SERVERS" in variables()
    assert "TIELINE_PUBLISH_PATIENCE" in variables()


@pytest.mark.parametrize("text", ["", "soon", "5 minutes", "nan", "inf", "1,5", "0x10s"])
@pytest.mark.parametrize("variable", ["TIELINE_RECONNECT", "TIELINE_PUBLISH_PATIENCE"])
def test_what_is_no_duration_names_the_variable_and_the_value(variable: str, text: str) -> None:
    with pytest.raises(BadSettings) as refused:
        Settings.from_environment({variable: text})
    assert variable in str(refused.value)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("TIELINE_RECONNECT", "-5", "reconnect must be at least"),
        ("TIELINE_PING_INTERVAL", "0", "ping_interval must be at least"),
        ("TIELINE_PUBLISH_PATIENCE", "10m", "under 540"),
        ("TIELINE_SERVERS", " , ", "servers is empty"),
        ("TIELINE_SERVERS", "localhost:4222", "'localhost:4222' is not a URL"),
        ("TIELINE_AUDIT", "maybe", "TIELINE_AUDIT='maybe'"),
        ("TIELINE_METRICS_PORT", "tcp://10.0.0.1:7777", "TIELINE_METRICS_PORT='tcp://10.0.0.1:7777'"),
    ],
)
def test_nonsense_is_refused_with_words(variable: str, text: str, says: str) -> None:
    with pytest.raises(BadSettings) as refused:
        Settings.from_environment({variable: text})
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [("TIELINE_RECONECT", "TIELINE_RECONNECT"), ("TIELINE_SERVER", "TIELINE_SERVERS"), ("TIELINE_PORT", "TIELINE_")],
)
def test_an_unknown_variable_is_a_warning_that_names_the_nearest_setting(
    typo: str, nearest: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert Settings.from_environment({typo: "4222"}) == Settings()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, "once in each process, however often the environment is read"
    assert lines[0].startswith(f"{typo} is not a setting")
    assert nearest in lines[0].removeprefix(typo)


def service_links(name: str, port: int) -> dict[str, str]:
    """What the kubelet gives every container of a namespace that has this Service (envvars.FromServices)."""
    name, address = name.upper().replace("-", "_"), "10.96.4.7"
    link = f"{name}_PORT_{port}_TCP"
    return {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_SERVICE_PORT_CLIENT_NATS": str(port),
        f"{name}_PORT": f"tcp://{address}:{port}",
        link: f"tcp://{address}:{port}",
        f"{link}_PROTO": "tcp",
        f"{link}_PORT": str(port),
        f"{link}_ADDR": address,
    }


@pytest.mark.parametrize("service", ["tieline", "tieline-nats", "tieline-metrics", "tieline-health"])
def test_what_kubernetes_injects_for_a_service_is_ignored_silently(
    service: str, caplog: pytest.LogCaptureFixture
) -> None:
    links = service_links(service, 4222)
    assert Settings.from_environment(links | {"TIELINE_RECONNECT": "7"}).connection.reconnect == 7
    assert Settings.from_environment(links).metrics_port == 7777
    assert caplog.records == []


def test_no_variable_of_a_service_called_tieline_is_a_setting() -> None:
    assert service_links("tieline", 4222).keys() & {*variables()} == set()


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"attempts": 0},
        {"timeout": 0.0},
        {"ack_wait": 0.5},
        {"first_retry": -1.0},
        {"first_retry": 10.0, "longest_retry": 5.0},
        {"drain": -1.0},
        {"timeout": float("nan")},
    ],
)
def test_limits_that_cannot_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSettings) as refused:
        Limits(**wrong)
    assert "limits." in str(refused.value)
    assert "must be at least" in str(refused.value)


def test_the_tree_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().connection.reconnect = 1.0  # type: ignore[misc]


def test_made_in_code_it_is_checked_too() -> None:
    with pytest.raises(BadSettings, match="servers"):
        ConnectionSettings(servers=())
    with pytest.raises(BadSettings, match="ack_timeout"):
        PublishSettings(ack_timeout=0)
