"""What `tieline deploy` renders: valid by the schemas of those who read it, and run here, command by command."""

import asyncio
import json
import shutil
import stat
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import tieline
from deployments import BIN, Here, is_ok, running, servers
from scraping import scraped
from support.office import settings

from tieline import Bus, connect
from tieline.services.reference import load_pod
from tieline.testing import eventually

_POD = """
from pathlib import Path

from tieline import Conversation, Message, Pod

class Book(Message, subject="call.intent.book"):
    call_id: str

pod = Pod("shop")

@pod.tool
async def crm(name: str) -> str:
    return name.upper()

@pod.agent(calls=[crm])
async def booking(intent: Book, call: Conversation) -> None:
    Path("done").write_text(await call.tool(crm, name=intent.call_id))
"""
_NAMES = {"booking", "tools", "audit", "metrics"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop.py").write_text(_POD)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("shop", None)
    return tmp_path


async def rendered(project: Path, kind: str, *options: str) -> Path:
    made = await tieline("deploy", kind, *([] if kind == "nats" else ["shop"]), *options, cwd=project)
    assert (made.code, made.err) == (0, "")
    return project / "deploy" / kind


async def ran(*command: str) -> tuple[int | None, str]:
    """A checker's exit code, and all that it says."""
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    said, _ = await process.communicate()
    return process.returncode, said.decode()


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


# -- by the schemas


async def test_manifests_are_what_kubernetes_reads(project: Path) -> None:
    for options in ([], ["--tls", "--servers", "1", "--namespace", "other", "--force"]):
        folder = await rendered(project, "kubernetes", *options)
        files = sorted(str(path) for path in folder.glob("*.yaml"))
        assert len(files) == 4
        command = [str(BIN / "kubernetes-validate"), "--strict", "--no-warn", "-k", "1.37", *files]
        code, told = await ran(*command)
        assert (code, told.count("passed")) == (0, 21), told


async def test_the_compose_file_is_by_its_specification(project: Path) -> None:
    for options in ([], ["--tls", "--servers", "3"]):
        folder = await rendered(project, "compose", *options)
        command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
        code, told = await ran(*command, str(folder / "compose.yaml"))
        assert code == 0, told


async def test_units_are_what_systemd_reads(project: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    for options in ([], ["--tls", "--servers", "3", "--hosts", "a,b,c"]):
        folder = await rendered(project, "systemd", "--prefix", str(BIN.parent), *options)
        units = [str(unit) for unit in (folder / "etc/systemd/system").iterdir()]
        assert await ran("systemd-analyze", "verify", *units) == (0, "")


# -- what users of such files rely on


async def test_containers_may_do_nothing_they_need_not(project: Path) -> None:
    folder = await rendered(project, "kubernetes")
    templates = [
        found["spec"]["template"]["spec"]
        for name in ("2-nats.yaml", "3-pod.yaml")
        for found in documents(folder / name)
        if "template" in found.get("spec", {})
    ]
    assert len(templates) == 2 + len(_NAMES)  # the servers, and what makes the streams
    for template in templates:
        [container] = template["containers"]
        assert template["securityContext"]["runAsNonRoot"] is True
        assert template["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
    for name, service in yaml.safe_load((await rendered(project, "compose") / "compose.yaml").read_text())[
        "services"
    ].items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert not service["user"].startswith("0"), name


async def test_a_process_has_longer_to_stop_than_its_handlers(project: Path) -> None:
    limits = load_pod("shop").agents["booking"].limits
    folder = await rendered(project, "kubernetes")
    [spec] = [found["spec"] for found in documents(folder / "3-pod.yaml") if found["metadata"]["name"] == "booking"][:1]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > limits.drain
    assert "replicas" not in spec  # who scales it says how many
    services = yaml.safe_load((await rendered(project, "compose") / "compose.yaml").read_text())["services"]
    assert int(services["booking"]["stop_grace_period"].removesuffix("s")) > limits.drain


async def test_secrets_are_their_owners_alone(project: Path) -> None:
    places = [await rendered(project, kind) for kind in ("kubernetes", "compose", "systemd")]
    secret = [path for place in places for path in place.rglob("*") if path.is_file() and "SEED" in path.read_text()]
    assert len(secret) == 1 + 2 * 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert "1-secrets.yaml" in (places[0] / ".gitignore").read_text()
    assert (places[1] / "secrets/.gitignore").read_text() == "*\n"


async def test_rendering_again_replaces_ours_and_not_theirs(project: Path) -> None:
    folder = await rendered(project, "compose")
    await rendered(project, "compose")
    (folder / "Dockerfile").write_text("FROM scratch\n")
    before = (folder / "compose.yaml").read_text()
    refused = await tieline("deploy", "compose", "shop", "--servers", "3", cwd=project)
    assert (refused.code, "has Dockerfile that we did not render; --force" in refused.err) == (2, True)
    assert (folder / "compose.yaml").read_text() == before  # nothing half-done
    assert not (folder / "nats-2.conf").exists()
    await rendered(project, "compose", "--servers", "3", "--force")
    assert (folder / "Dockerfile").read_text() != "FROM scratch\n"
    assert (folder / "nats-2.conf").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kubernetes", "shop", "--servers", "2"], "--servers 2: one server, or three"),
        (["systemd", "shop", "--servers", "3"], "name them with --hosts A,B,C"),
        (["systemd", "shop", "--servers", "3", "--hosts", "a,b"], "--hosts names 2 and there are 3"),
        (["systemd", "shop", "--prefix", "venv"], "--prefix 'venv' is not absolute"),
        (["compose", "shop", "--storage", "much"], "--storage 'much' is not understood"),
        (["compose", "shop", "--storage", "1MB"], "needs at least 100MB"),
        (["compose", "shop", "--sync", "never"], "not 'never'"),
        (["compose", "shop", "--install", "../other"], "--install '../other' is not within"),
        (["compose", "shop", "--out", "../elsewhere"], "--out ../elsewhere is outside"),
        (["compose", "nobody"], "nobody"),
        (["nats"], "no operator yet"),
    ],
)
async def test_what_cannot_be_rendered(project: Path, arguments: list[str], words: str) -> None:
    refused = await tieline("deploy", *arguments, cwd=project)
    assert (refused.code, words in refused.err) == (2, True), refused.err
    assert not (project / "deploy").exists() or not [*(project / "deploy").rglob("*.yaml")]


async def test_an_agent_named_like_what_is_beside_it(project: Path) -> None:
    (project / "shop.py").write_text(_POD.replace("def booking(", "def nats("))
    refused = await tieline("deploy", "kubernetes", "shop", cwd=project)
    assert (refused.code, "nats of pod shop" in refused.err) == (2, True)


# -- run


@dataclass
class Rendered:
    """One process as rendered: its command, its settings, and where its credentials are here."""

    command: list[str]
    environment: dict[str, str]
    credentials: Path

    def settings(self, here: Here) -> dict[str, str]:
        """Its environment, for this machine."""
        found = dict(self.environment)
        found["TIELINE_SERVERS"] = here.urls(found["TIELINE_SERVERS"])
        found["TIELINE_CREDENTIALS"] = str(self.credentials)
        ports = {"TIELINE_HEALTH_PORT": "0", "TIELINE_METRICS_PORT": "0"}
        return found | {name: port for name, port in ports.items() if name in found}


async def works(project: Path, here: Here, processes: dict[str, Rendered], url: str) -> None:
    """The streams are made, each process gets ready, a message is handled; then each stops when it is told to."""
    first = processes.pop("apply")
    async with running("apply", first.command, first.settings(here), project) as applying:
        assert await applying.process.wait() == 0, applying.said
    assert processes.keys() == _NAMES
    async with AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(running(name, one.command, one.settings(here), project))
            for name, one in processes.items()
        ]
        for one in started:
            page = f"http://127.0.0.1:{await one.port('health at port ')}"
            await eventually(partial(is_ok, f"{page}/ready"), what=f"{one.name} ready")
            assert await is_ok(f"{page}/live")
        operator = settings(url, credentials=first.credentials)
        async with connect(load_pod("shop"), settings=operator) as bus:
            await bus.publisher.publish("call.intent.book", b'{"callId": "c1"}', {})
            await eventually((project / "done").exists, what="the message handled")
            assert (project / "done").read_text() == "C1"
            await in_force(bus, len(here.clients))
        [metrics] = [one for one in started if one.name == "metrics"]
        page = f"http://127.0.0.1:{await metrics.port('metrics at http://[0-9.]+:')}/metrics"
        await eventually(partial(_up, page), what="metrics of the server")
        for one in started:
            one.process.terminate()
        assert [(one.name, await one.process.wait()) for one in started] == [(one.name, 0) for one in started]


async def _up(page: str) -> bool:
    return (await scraped(page)).of("tieline_up") == 1


async def in_force(bus: Bus, count: int) -> None:
    """Replicas on all servers, and their traffic in the account: as it is, and not as the file says."""
    info = await bus.connection.api("STREAM.INFO.CALL_INTENT")
    assert info["config"]["num_replicas"] == count
    if count > 1:
        assert info["cluster"]["traffic_account"].startswith("A")


async def test_what_kubernetes_runs_runs(project: Path) -> None:
    folder = await rendered(project, "kubernetes")
    nats, pod = documents(folder / "2-nats.yaml"), documents(folder / "3-pod.yaml")
    secrets = {found["metadata"]["name"]: found["stringData"] for found in documents(folder / "1-secrets.yaml")}
    processes: dict[str, Rendered] = {}
    for found in pod:
        if found["kind"] not in ("Job", "Deployment"):
            continue
        [container] = found["spec"]["template"]["spec"]["containers"]
        [volume] = [one for one in found["spec"]["template"]["spec"]["volumes"] if one["name"] == "creds"]
        [mount] = [one for one in container["volumeMounts"] if one["name"] == "creds"]
        environment = {one["name"]: one["value"] for one in container["env"]}
        place = Path(environment["TIELINE_CREDENTIALS"])
        assert str(place.parent) == mount["mountPath"]
        path = project / f"{container['name']}.creds"
        path.write_text(secrets[volume["secret"]["secretName"]][place.name])
        path.chmod(0o600)
        processes[container["name"]] = Rendered(container["command"], environment, path)
        if found["kind"] == "Deployment":
            probes = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
            assert probes == {"/live", "/ready"}
    confs = {name.removesuffix(".conf"): text for name, text in nats[0]["data"].items()}
    [server] = next(one for one in nats if one["kind"] == "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert server["command"] == ["nats-server", "-c", "/etc/nats/conf/$(POD_NAME).conf"]
    async with servers(confs, "/data", project) as here:
        for port in here.monitors.values():
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                path_ = server[probe]["httpGet"]["path"]
                assert await is_ok(f"http://127.0.0.1:{port}{path_}"), probe
        await works(project, here, processes, f"nats://127.0.0.1:{here.clients['nats-0']}")
        await scales(folder, here)


async def scales(folder: Path, here: Here) -> None:
    """KEDA's scaler asks each server's monitoring pages and looks for what the manifest names."""
    seen = set()
    for scaled in documents(folder / "scaling/keda.yaml"):
        assert scaled["spec"]["scaleTargetRef"]["name"] == scaled["metadata"]["name"]
        for trigger in scaled["spec"]["triggers"]:
            asked = trigger["metadata"]
            assert asked["natsServerMonitoringEndpoint"] == "nats-headless.shop.svc.cluster.local:8222"
            leaders = [await _leads(asked, name, port) for name, port in here.monitors.items()]
            assert sum(leaders) == 1, asked
            seen.add((scaled["metadata"]["name"], asked["consumer"]))
    assert seen == {
        ("booking", "booking"),
        ("booking", "booking-resume"),
        ("tools", "tool-crm"),
        ("tools", "tool-crm-resume"),
    }


async def _leads(asked: Mapping[str, str], name: str, port: int) -> bool:
    def read() -> Any:
        page = f"http://127.0.0.1:{port}/jsz?acc={asked['account']}&consumers=true&config=true"
        with urllib.request.urlopen(page, timeout=5) as answer:
            return json.load(answer)

    found = await asyncio.to_thread(read)
    return any(
        consumer["name"] == asked["consumer"] and consumer["cluster"]["leader"] == name
        for account in found["account_details"]
        if account["name"] == asked["account"]
        for stream in account["stream_detail"]
        if stream["name"] == asked["stream"]
        for consumer in stream["consumer_detail"]
    )


async def test_what_compose_runs_runs(project: Path) -> None:
    folder = await rendered(project, "compose")
    found = yaml.safe_load((folder / "compose.yaml").read_text())
    services = found["services"]
    server = services.pop("nats-0")
    assert (server["entrypoint"], server["command"]) == (["nats-server"], ["-c", "/etc/nats/nats.conf"])
    assert (folder / found["configs"]["nats-0"]["file"]).is_file()
    assert {service["depends_on"].popitem()[0] for service in services.values()} == {"nats-0", "apply"}
    processes = {}
    for name, service in services.items():
        [secret] = service["secrets"]
        assert service["environment"]["TIELINE_CREDENTIALS"] == f"/run/secrets/{secret}"
        place = folder / found["secrets"][secret]["file"]
        processes[name] = Rendered(service["command"], service["environment"], place)
    async with servers({"nats-0": (folder / "nats-0.conf").read_text()}, "/data", project) as here:
        await works(project, here, processes, f"nats://127.0.0.1:{here.clients['nats-0']}")


async def test_what_systemd_runs_runs(project: Path) -> None:
    folder = await rendered(project, "systemd", "--prefix", str(BIN.parent))
    processes, ports = {}, []
    for unit in (folder / "etc/systemd/system").glob("shop-*.service"):
        lines = [line.partition("=") for line in unit.read_text().splitlines()]
        told = [value for key, _, value in lines if key == "Environment"]
        environment = {name: value for name, _, value in (one.partition("=") for one in told)}
        environment["TIELINE_SERVERS"] = environment["TIELINE_SERVERS"].replace("127.0.0.1", "nats-0")
        assert environment["TIELINE_CREDENTIALS"] == "%d/user.creds"
        [handed] = [value for key, _, value in lines if key == "LoadCredential"]
        place = folder / handed.removeprefix("user.creds:/")
        [command] = [value for key, _, value in lines if key == "ExecStart"]
        name = unit.stem.removeprefix("shop-")
        processes[name] = Rendered(command.split(), environment, place)
        ports += [environment["TIELINE_HEALTH_PORT"]] if name != "apply" else []
    assert len(set(ports)) == len(_NAMES)
    target = (folder / "etc/systemd/system/shop.target").read_text()
    assert all(f"shop-{name}.service" in target for name in processes)
    conf = (folder / "etc/tieline/nats.conf").read_text()
    async with servers({"nats-0": conf}, "/var/lib/tieline-nats", project) as here:
        await works(project, here, processes, f"nats://127.0.0.1:{here.clients['nats-0']}")


async def test_servers_alone_with_tenants_and_open(project: Path) -> None:
    """Three servers of machines with names; tenants that come later are told to them."""
    await tieline("tenant", "create", "acme", "--offline", cwd=project)
    folder = await rendered(project, "nats", "--hosts", "nats-0,nats-1,nats-2")
    confs = {path.stem: path.read_text() for path in sorted(folder.glob("*.conf"))}
    async with servers(confs, "/var/lib/nats", project) as here:
        url = f"nats://127.0.0.1:{here.clients['nats-1']}"
        pushed = await tieline("tenant", "create", "beta", cwd=project, url=url)
        assert (pushed.code, pushed.err) == (0, "")
        refused = await tieline("report", cwd=project, url=url)
        assert refused.code == 1  # nobody without credentials
    await rendered(project, "nats", "--open", "--out", "open")
    confs = {path.stem: path.read_text() for path in sorted((project / "open").glob("*.conf"))}
    async with servers(confs, "/var/lib/nats", project / "open") as here:
        url = f"nats://127.0.0.1:{here.clients['nats-0']}"
        applied = await tieline("apply", "shop", cwd=project, url=url)
        assert (applied.code, applied.err) == (0, "")
        async with connect(load_pod("shop"), settings=settings(url)) as bus:
            info = await bus.connection.api("STREAM.INFO.CALL_INTENT")
        assert info["cluster"]["traffic_account"] == "TIELINE"


async def test_an_image_installs_what_it_is_told_to(project: Path) -> None:
    for part in (".", "pods/oneroof"):
        (project / part).mkdir(parents=True, exist_ok=True)
    folder = await rendered(project, "compose", "--install", ".", "--install", "pods/oneroof")
    text = (folder / "Dockerfile").read_text()
    assert '-c deploy/compose/constraints.txt "." "./pods/oneroof"' in text
    assert text.index("USER 10001:10001") > text.rindex("\nRUN ")
    ignored = (folder / "Dockerfile.dockerignore").read_text().splitlines()
    assert {".tieline", "**/*.creds", "deploy"} <= set(ignored)


async def test_a_loose_module_is_copied_and_tieline_comes_as_a_wheel(project: Path) -> None:
    """The pod is a file in no project, and this Tieline is installed from a folder that is not the pod's."""
    made = await tieline("deploy", "compose", "shop", cwd=project)
    text = (project / "deploy/compose/Dockerfile").read_text()
    assert 'cp -r "shop.py" /app/pod/' in text
    assert "deploy/compose/wheels/*.whl" in text
    assert "pydantic==" in (project / "deploy/compose/constraints.txt").read_text()
    assert "uv build --wheel --out-dir deploy/compose/wheels" in made.out  # the step that puts it there
    assert "!deploy/compose/wheels" in (project / "deploy/compose/Dockerfile.dockerignore").read_text()


async def test_the_dockerfile_is_where_the_compose_file_says(project: Path) -> None:
    made = await tieline("deploy", "compose", "shop", "--out", "ops/staging", cwd=project)
    assert made.code == 0
    build = yaml.safe_load((project / "ops/staging/compose.yaml").read_text())["services"]["apply"]["build"]
    context = (project / "ops/staging" / build["context"]).resolve()
    assert context == project
    assert (context / build["dockerfile"]).is_file()


_WITH_FILES = """
import os
from pathlib import Path

from tieline import Conversation, Message, Pod

class Book(Message, subject="call.intent.book"):
    call_id: str

pod = Pod("shop", data="SHOP_DATA")

@pod.tool
async def crm(name: str) -> str:
    Path(os.environ["SHOP_DATA"], "leads").write_text(name)
    return name

@pod.agent
async def booking(intent: Book, call: Conversation) -> None:
    await call.tool(crm, name=intent.call_id)
"""


async def test_tools_that_keep_files_have_a_volume_and_run_once(project: Path) -> None:
    (project / "shop.py").write_text(_WITH_FILES)
    folder = await rendered(project, "kubernetes")
    manifests = documents(folder / "3-pod.yaml")
    [claim] = [found for found in manifests if found["kind"] == "PersistentVolumeClaim"]
    [tools] = [found for found in manifests if found["metadata"]["name"] == "tools" and found["kind"] == "Deployment"]
    template = tools["spec"]["template"]["spec"]
    assert {"name": "files", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}} in template["volumes"]
    [container] = template["containers"]
    assert {"name": "files", "mountPath": "/var/lib/shop"} in container["volumeMounts"]
    assert {"name": "SHOP_DATA", "value": "/var/lib/shop"} in container["env"]
    assert (tools["spec"]["strategy"], tools["spec"]["replicas"]) == ({"type": "Recreate"}, 1)
    scaled = {found["metadata"]["name"] for found in documents(folder / "scaling/keda.yaml")}
    assert scaled == {"booking"}
    services = yaml.safe_load((await rendered(project, "compose") / "compose.yaml").read_text())["services"]
    assert services["tools"]["volumes"] == ["./data/tools:/var/lib/shop"]
    assert (project / "deploy/compose/data/tools").is_dir()
    unit = (await rendered(project, "systemd") / "etc/systemd/system/shop-tools.service").read_text()
    assert "StateDirectory=shop" in unit
    assert "Environment=SHOP_DATA=/var/lib/shop" in unit
    # Nobody declared that booking calls the tool: its credentials come from its code.
    explained = await tieline("creds", "shop", "booking", "--explain", cwd=project)
    assert "tool.call.crm" in explained.out


async def test_code_that_does_not_show_what_it_does_is_refused(project: Path) -> None:
    hidden = _WITH_FILES.replace("call.tool(crm, name", 'call.tool({"crm": crm}["crm"], name')
    (project / "shop.py").write_text(hidden)
    refused = await tieline("deploy", "compose", "shop", cwd=project)
    assert refused.code == 2
    assert "agent booking declares nothing" in refused.err.replace("\n", " ")
    assert "calls=(…)" in refused.err
    assert not (project / "deploy/compose/compose.yaml").exists()
