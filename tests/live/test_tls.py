"""TLS: encrypted when asked, both ways when asked, on routes too, and new certificates without a restart."""

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from support.messages import Book
from support.office import QUICK, at_work, settings

from tieline import BadSettings, Conversation, Pod, Settings, Unreachable, connect
from tieline.server import ServerConfig, Tls
from tieline.settings import ConnectionSettings
from tieline.testing import Cluster, Server, eventually


class Papers:
    """A certificate authority of a test's own, and what it signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self.renew()

    def renew(self) -> None:
        issued = self.authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(str(self.key))
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    @property
    def tls(self) -> Tls:
        return Tls(certificate=self.certificate, key=self.key, ca=self.ca)


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


def trusting(url: str, papers: Papers, *, showing: Papers | None = None) -> Settings:
    found = settings(url, reconnect=20.0)
    connection = replace(found.connection, tls_ca=papers.ca)
    if showing is not None:
        connection = replace(connection, tls_certificate=showing.certificate, tls_key=showing.key)
    return replace(found, connection=connection)


async def serial_of(server: Server) -> int:
    """The number of the certificate that a new connection is shown."""
    host, port = server.url.removeprefix("tls://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    await writer.start_tls(context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return hash(shown)


async def test_a_pod_works_encrypted_and_goes_on_with_new_certificates(papers: Papers, tmp_path: Path) -> None:
    pod, done = Pod("office", limits=QUICK), list[str]()

    @pod.agent
    async def booking(book: Book, _: Conversation) -> None:
        done.append(book.call_id)

    config = ServerConfig(data=tmp_path / "nats", sync="2m", tls=papers.tls)
    async with Server(config) as server, at_work(pod, trusting(server.url, papers)) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: done == ["c1"], what="the first")
        before = await serial_of(server)
        papers.renew()
        server.embedded.reload()

        async def renewed() -> bool:
            return await serial_of(server) != before

        await eventually(renewed, what="the new certificate")
        await office.bus.publish(Book(call_id="c2"))
        await eventually(lambda: done == ["c1", "c2"], what="the second, on the old connection")
        await server.restart()
        await office.bus.publish(Book(call_id="c3"))
        await eventually(lambda: done == ["c1", "c2", "c3"], what="the third, on a new one")


async def test_who_is_not_trusted_is_not_connected_to(papers: Papers, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    others = Papers(tmp_path / "other")
    pod = Pod("office")
    async with Server(ServerConfig(data=tmp_path / "nats", sync="2m", tls=replace(papers.tls, verify=True))) as server:
        with pytest.raises(Unreachable, match="certificate"):
            async with connect(pod, settings=trusting(server.url, others)):
                pass
        with pytest.raises(Unreachable):  # it asks for a certificate of ours
            async with connect(pod, settings=trusting(server.url, papers)):
                pass
        async with connect(pod, settings=trusting(server.url, papers, showing=papers)) as bus:
            await bus.apply()


async def test_the_routes_of_a_cluster_are_encrypted_too(papers: Papers, tmp_path: Path) -> None:
    pod = Pod("office")
    async with Cluster(ServerConfig(data=tmp_path / "nats", sync="2m", tls=papers.tls)) as cluster:
        async with connect(pod, settings=trusting(cluster.urls[0], papers)) as bus:
            await bus.apply()
            info = await bus.connection.api("STREAM.INFO.CALL_INTENT")
        logs = "".join(node.embedded.log.read_text() for node in cluster.nodes)
    assert len(info["cluster"]["replicas"]) == 2
    assert "TLS" in logs, logs


def test_wrong_files_are_named() -> None:
    with pytest.raises(BadSettings, match=r"tls_ca: there is no file 'nowhere.pem'"):
        ConnectionSettings(tls_ca=Path("nowhere.pem"))
    with pytest.raises(BadSettings, match="has no tls_certificate beside it"):
        ConnectionSettings(tls_key=Path("nowhere.key"))
    with pytest.raises(BadSettings, match=r"tls.verify needs tls.ca"):
        Tls(certificate=Path("a"), key=Path("b"), verify=True)
