"""What an adapter of either generation meets at its ends: odd agents, odd calls, connections that do not stand."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from aos.errors import FoundryRefused, FoundryUnavailable
from aos.foundry.clients import FoundryClients
from aos.foundry.provisioning import Provisioner, foundry_name
from aos.foundry.responses import ResponsesAdapter
from aos.foundry.threads import ThreadsAdapter
from aos.kernel.types import AgentRef, ConversationKey, ToolOutput
from emulators.foundry import FoundryEmulator
from emulators.foundry.model import Returned
from tests.foundry.project import LOOKUP, Adapter, Api, Project, running, settings, spec
from tests.foundry.script import Script, calls, says
from tests.foundry.talk import talk
from tests.foundry.test_contract import APIS

REF = AgentRef("ceo", "1", "hash", "llama-3.3-70b-ceo")
REMOTE: dict[Api, str] = {"responses": "conv_1", "threads": "thread_1"}
Ask = Callable[[Adapter, Api], Awaitable[object]]
ASKS: dict[str, Ask] = {
    "check": lambda adapter, api: adapter.check(),
    "ensure": lambda adapter, api: adapter.ensure_agent(spec()),
    "look up": lambda adapter, api: adapter.look_up_agents([f"a{number}" for number in range(9)]),
    "remove": lambda adapter, api: adapter.remove_agent("ceo"),
    "open": lambda adapter, api: adapter.open_conversation(ConversationKey("ceo", "main")),
    "respond": lambda adapter, api: adapter.respond(REF, REMOTE[api], (), "hello", 5),
    "streamed": lambda adapter, api: adapter.respond(REF, REMOTE[api], (), "hello", 5, on_text=lambda piece: None),
    "answer": lambda adapter, api: adapter.respond(REF, REMOTE[api], [ToolOutput("c", "1")], None, 5),
    "items": lambda adapter, api: adapter.items_after(REMOTE[api], None),
}
each = pytest.mark.parametrize("api", APIS)
every_ask = pytest.mark.parametrize("ask", ASKS)


@asynccontextmanager
async def reaching(api: Api, endpoint: str) -> AsyncIterator[Adapter]:
    clients = FoundryClients(settings(endpoint))
    made = ThreadsAdapter if api == "threads" else ResponsesAdapter
    adapter = made(clients, Provisioner(None), "aos")
    try:
        yield adapter
    finally:
        await adapter.close()


@pytest.fixture(scope="module", params=APIS)
async def either(request: pytest.FixtureRequest, shared_project: Project) -> AsyncIterator[Project]:
    project = Project(shared_project.emulator, request.param)
    yield project
    await project.close()


# --- agents


async def test_too_many_tools_are_refused_with_the_limit(either: Project) -> None:
    one = spec()
    many = replace(one, functions=tuple(replace(LOOKUP, name=f"tool_{number}") for number in range(200)))
    with pytest.raises(FoundryRefused, match=r"128.*200") as refused:
        await either.any_adapter().ensure_agent(many)
    assert refused.value.code == "tool_limit_exceeded"
    assert await either.versions(one.agent_id) == []
    fewer = replace(many, functions=many.functions[:128])
    assert (await either.any_adapter().ensure_agent(fewer)).version


async def test_ids_of_any_letters_become_agents_of_their_own(either: Project) -> None:
    ids = ["vice ceo", "vice_ceo", "vice-ceo", "vice.ceo", "Müller & Söhne", "取締役", "-", "x" * 200]
    adapter = either.any_adapter()
    refs = {agent_id: await adapter.ensure_agent(spec(agent_id, agent_id)) for agent_id in ids}
    assert len({ref.name for ref in refs.values()}) == len(ids), "none shares its name with another"
    for agent_id, ref in refs.items():
        assert ref.name == foundry_name(agent_id)
        remote_id = await adapter.open_conversation(ConversationKey(agent_id, "main / ü"))
        assert (await adapter.respond(ref, remote_id, (), "@say here", 10)).text == "here"
    assert await adapter.remove_agent("vice ceo")
    assert await either.versions(refs["vice_ceo"].name) == [refs["vice_ceo"].version], "its namesake stays"


@each
async def test_odd_arguments_and_odd_results_pass(api: Api) -> None:
    odd = ["year=2024", "", "[1]", '{"year": NaN}', "null", "42"]
    model = Script(calls(*(("ledger_lookup", arguments) for arguments in odd)), says("well"))
    async with running(FoundryEmulator(model=model), api) as project:
        one = await talk(project)
        asked = await one.say("hello")
        assert [call.arguments for call in asked.calls] == odd
        outputs = [ToolOutput(call.call_id, call.arguments) for call in asked.calls]
        assert (await one.say(None, *outputs)).text == "well"
        assert [turn.output for turn in model.asked[-1].history if isinstance(turn, Returned)] == odd


# --- connections


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of a server that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "nobody.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(secret + signed.public_bytes(Encoding.PEM))
    return file


@each
@pytest.mark.parametrize("ask", ["check", "respond"])
@pytest.mark.parametrize("tls", [True, False], ids=["unknown certificate", "no tls"])
async def test_a_connection_without_trust_is_never_used(api: Api, ask: str, tls: bool, certificate: Path) -> None:
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(4096))
        writer.close()

    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with reaching(api, f"https://127.0.0.1:{port}/api/projects/local") as adapter:
            with pytest.raises(FoundryUnavailable) as failed:
                await ASKS[ask](adapter, api)
    assert not failed.value.sent
    assert "cannot be reached" in failed.value.detail
    assert not any(b"api-key" in data for data in received), "no secret left"


@each
@every_ask
async def test_nobody_there(api: Api, ask: str) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}/api/projects/local"
        async with reaching(api, endpoint) as adapter:
            with pytest.raises(FoundryUnavailable) as failed:
                await ASKS[ask](adapter, api)
    assert not failed.value.sent
