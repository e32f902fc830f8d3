"""The routes of AOS. A handler decodes, calls the system, encodes; what it raises becomes a problem document."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from aos.answers import (
    AgentAnswer,
    AgentListAnswer,
    AgentStatusAnswer,
    ApprovalAnswer,
    ApprovalPageAnswer,
    CommandAnswer,
    HealthAnswer,
    OperationAnswer,
    ReloadAnswer,
    ServerListAnswer,
    ServerStatusAnswer,
    WorkflowAnswer,
)
from aos.approvals import ApprovalDecision, Listed
from aos.commands import AgentOrder
from aos.config import SERVICE_BUS, STORAGE, Settings
from aos.conversations import ConversationView
from aos.errors import (
    AgentDisabled,
    AgentNotReady,
    AgentStopped,
    AosError,
    ApprovalSettled,
    BacklogFull,
    ConversationBusy,
    OperationConflict,
    OperationFinal,
    TransientError,
    UnknownAgent,
    UnknownApproval,
    UnknownConversation,
    UnknownOperation,
)
from aos.intake import Ask
from aos.kernel.types import ConversationKey
from aos.mcp.errors import UnknownServer
from aos.messaging.envelopes import (
    AGENT_COMMANDS,
    AGENT_EVENTS,
    AOS_REQUESTS,
    MCP_COMMANDS,
    MCP_REQUESTS,
    MCP_RESPONSES,
)
from aos.messaging.incoming import REPLAY, Incoming, replay_number
from aos.routing import NoAgentFits
from aos.sse import LONGEST_STREAM, MEDIA_TYPE, EventStream, location, wants_events
from aos.telemetry.bus import delivered
from aos.views import operation_view
from aos.workflows import UnknownWorkflow, WorkflowRequest, derive_workflow_id
from runtime import (
    Answers,
    AuthLevel,
    BusMessage,
    HttpMethod,
    Parameter,
    Problem,
    Request,
    Response,
    RouteRegistry,
    StorageMessage,
    TimerTick,
)

if TYPE_CHECKING:
    from aos.kernel.kernel import Kernel
    from aos.kernel.types import Operation
    from aos.mcp.servers import McpServers
    from aos.orchestration.workflow import Workflow
    from aos.system import AgentOperatingSystem

AGENTS_SUBSCRIPTION = "realm-agents"
SERVERS_SUBSCRIPTION = "mcp-servers"

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")

HttpHandler = Callable[[Request], Awaitable[Response]]

_STATUS: dict[type[AosError], int] = {
    UnknownAgent: 404,
    UnknownOperation: 404,
    UnknownApproval: 404,
    UnknownServer: 404,
    UnknownConversation: 404,
    UnknownWorkflow: 404,
    NoAgentFits: 404,
    ConversationBusy: 409,
    ApprovalSettled: 409,
    AgentDisabled: 409,
    AgentStopped: 409,
    OperationConflict: 409,
    OperationFinal: 409,
    BacklogFull: 429,
    AgentNotReady: 503,
    TransientError: 503,
}


# A key or token may be limited to agents: these are its scopes. Approving is apart: who talks to an agent must not
# approve its writes.
READ, RUN, READ_ALL, APPROVER = "agents/{agent_id}:read", "agents/{agent_id}:run", "agents/*:read", "approver"

_OPERATION = Answers("The operation as it ended.", OperationAnswer)
_GOES_ON = Answers("The operation goes on.", OperationAnswer)
_LATER = {"Location": "Where the operation is found.", "Retry-After": "Seconds after which to look."}
_ASKING = (
    Parameter("idempotency-key", "header", description="The same key names the same operation for ever."),
    Parameter("prefer", "header", description="`respond-async`: do not wait for the answer (RFC 7240)."),
)


def routes(settings: Settings) -> RouteRegistry:
    """All routes of the roles that this app plays."""
    registry = RouteRegistry()
    registry.register(
        "health",
        _http(health),
        auth_level=AuthLevel.ANONYMOUS,
        name="health",
        tags=["system"],
        response_model=HealthAnswer,
        answers={
            # Not only a problem: the body of an unhealthy system says what is wrong with it.
            503: Answers("It cannot do its work, or could not start.", HealthAnswer)
        },
    )
    registry.register(
        "mcp/servers",
        _http(mcp_servers),
        name="mcp_servers",
        tags=["system"],
        response_model=ServerListAnswer,
        scopes=(READ_ALL,),
        problems=(502,),
    )
    registry.register(
        "mcp/servers/{server_id}/status",
        _http(mcp_server_status),
        name="mcp_server_status",
        tags=["system"],
        response_model=ServerStatusAnswer,
        scopes=(READ_ALL,),
        problems=(404, 502),
    )
    if "agents" in settings.roles:
        _agent_routes(registry, settings)
    if "mcp" in settings.roles:
        registry.register_topic(
            MCP_REQUESTS,
            SERVERS_SUBSCRIPTION,
            on_mcp_request,
            connection=SERVICE_BUS,
            name="on_mcp_request",
            required=False,
        )
        registry.register_queue(
            MCP_COMMANDS, on_mcp_command, connection=SERVICE_BUS, name="on_mcp_command", required=False
        )
    return registry


def _agent_routes(registry: RouteRegistry, settings: Settings) -> None:
    registry.register(
        "agents",
        _http(agent_list),
        name="agent_list",
        tags=["agents"],
        response_model=AgentListAnswer,
        problems=(502,),
    )
    registry.register(
        "agents/{agent_id}",
        _http(agent),
        name="agent",
        tags=["agents"],
        response_model=AgentAnswer,
        scopes=(READ,),
        problems=(404, 502),
    )
    registry.register(
        "agents/{agent_id}/status",
        _http(agent_status),
        name="agent_status",
        tags=["agents"],
        response_model=AgentStatusAnswer,
        scopes=(READ,),
        problems=(404, 502),
    )
    registry.register(
        "agents/{agent_id}",
        _http(ask),
        [HttpMethod.POST],
        name="ask",
        tags=["agents"],
        request_model=Ask,
        answers={
            200: Answers("The answer.", OperationAnswer, {"text/event-stream": "The turn as it goes, event by event."}),
            202: Answers("The turn goes on.", OperationAnswer, headers=_LATER),
        },
        parameters=_ASKING,
        scopes=(RUN,),
        sensitive=True,
        problems=(404, 409, 429, 502),
    )
    registry.register(
        "query",
        _http(query),
        [HttpMethod.POST],
        name="query",
        tags=["agents"],
        request_model=Ask,
        answers={
            200: Answers("The answer.", OperationAnswer, {"text/event-stream": "The turn as it goes, event by event."}),
            202: Answers("The turn goes on.", OperationAnswer, headers=_LATER),
        },
        parameters=_ASKING,
        sensitive=True,
        problems=(404, 409, 429, 502),
    )
    registry.register(
        "operations/{operation_id}",
        _http(operation),
        name="operation",
        tags=["operations"],
        response_model=OperationAnswer,
        sensitive=True,
        problems=(404, 502),
    )
    registry.register(
        "workflows",
        _http(begin_workflow),
        [HttpMethod.POST],
        name="begin_workflow",
        tags=["workflows"],
        request_model=WorkflowRequest,
        answers={
            200: Answers("It had been begun, and has ended.", WorkflowAnswer),
            202: Answers("It goes on.", WorkflowAnswer, headers=_LATER),
        },
        parameters=(
            Parameter("idempotency-key", "header", description="The same key names the same workflow for ever."),
        ),
        sensitive=True,
        problems=(404, 409, 429, 502),
    )
    registry.register(
        "workflows/{workflow_id}",
        _http(workflow),
        name="workflow",
        tags=["workflows"],
        response_model=WorkflowAnswer,
        sensitive=True,
        problems=(404, 502),
    )
    registry.register(
        "workflows/{workflow_id}",
        _http(cancel_workflow),
        [HttpMethod.DELETE],
        name="cancel_workflow",
        tags=["workflows"],
        response_model=WorkflowAnswer,
        sensitive=True,
        problems=(404, 409, 502),
    )
    registry.register(
        "agents/{agent_id}/conversations/{conversation_id}",
        _http(conversation),
        name="conversation",
        tags=["conversations"],
        response_model=ConversationView,
        parameters=(
            Parameter("after", kind=Annotated[int, Field(ge=0, lt=10**20)], description="`next` of the page before"),
        ),
        scopes=(READ,),
        sensitive=True,
        problems=(404, 502),
    )
    registry.register(
        "agents/{agent_id}/conversations/{conversation_id}",
        _http(delete_conversation),
        [HttpMethod.DELETE],
        name="delete_conversation",
        tags=["conversations"],
        answers={204: Answers("It is forgotten, here and in Foundry.")},
        scopes=(RUN,),
        problems=(404, 409, 502),
    )
    registry.register(
        "agents/{agent_id}/commands",
        _http(command_agent),
        [HttpMethod.POST],
        auth_level=AuthLevel.ADMIN,
        name="command_agent",
        tags=["agents"],
        request_model=AgentOrder,
        response_model=CommandAnswer,
        problems=(404, 502),
    )
    registry.register(
        "registry/reload",
        _http(reload),
        [HttpMethod.POST],
        auth_level=AuthLevel.ADMIN,
        name="reload_registry",
        tags=["system"],
        response_model=ReloadAnswer,
        problems=(502,),
    )
    registry.register(
        "operations/{operation_id}",
        _http(cancel),
        [HttpMethod.DELETE],
        name="cancel",
        tags=["operations"],
        answers={200: _OPERATION, 202: _GOES_ON},
        sensitive=True,
        problems=(404, 409, 502),
    )
    registry.register(
        "approvals",
        _http(approvals),
        auth_level=AuthLevel.ADMIN,
        name="approvals",
        tags=["approvals"],
        response_model=ApprovalPageAnswer,
        parameters=(
            Parameter("state", kind=Literal["pending", "decided"], description="pending, if it is not given"),
            Parameter("after", kind=Annotated[str, Field(max_length=256)], description="`next` of the page before"),
        ),
        scopes=(APPROVER,),
        sensitive=True,
        problems=(502,),
    )
    registry.register(
        "approvals/{approval_id}",
        _http(decide),
        [HttpMethod.POST],
        auth_level=AuthLevel.ADMIN,
        name="decide",
        tags=["approvals"],
        request_model=ApprovalDecision,
        answers={200: Answers("Done.", ApprovalAnswer), 202: Answers("On its way.", ApprovalAnswer)},
        scopes=(APPROVER,),
        sensitive=True,
        problems=(404, 409, 502),
    )
    registry.register_topic(
        AGENT_EVENTS,
        AGENTS_SUBSCRIPTION,
        on_agent_message,
        connection=SERVICE_BUS,
        name="on_agent_event",
        sessions=settings.events_sessions,
        required=False,
    )
    registry.register_topic(
        MCP_RESPONSES,
        AGENTS_SUBSCRIPTION,
        on_agent_message,
        connection=SERVICE_BUS,
        name="on_mcp_response",
        required=False,
    )
    registry.register_queue(
        AGENT_COMMANDS, on_agent_message, connection=SERVICE_BUS, name="on_agent_command", required=False
    )
    registry.register_queue(
        AOS_REQUESTS, on_agent_message, connection=SERVICE_BUS, name="on_aos_request", required=False
    )
    for queue in settings.function_output_queues:
        registry.register_storage_queue(
            queue, on_function_reply, connection=STORAGE, name=f"on_reply_{queue}", required=False
        )
    registry.register_timer("sweep", f"*/{settings.sweep_seconds} * * * * *", sweep)
    registry.register_timer("reconcile", "0 */5 * * * *", reconcile)
    registry.register_timer("purge", "0 */10 * * * *", purge)
    registry.register_timer("schedules", "0 * * * * *", schedules)


# --- HTTP


async def health(request: Request) -> Response:
    """How the system is: 200 when it can do its work, if only in part, else 503."""
    body = await _system(request).health()
    return Response(status=503 if body["status"] == "unhealthy" else 200, body=body)


async def agent_list(request: Request) -> Response:
    """The agents of the registry, as far as the caller may read them."""
    body = await _system(request).agent_list()
    if request.caller.scopes is not None:
        body["agents"] = [agent for agent in body["agents"] if request.caller.may(f"agents/{agent['agent_id']}:read")]
    return Response(body=body)


async def agent(request: Request) -> Response:
    """One agent: what it is for, what it may use, which deployment it thinks with."""
    return Response(body=await _system(request).agent(request.route_params["agent_id"]))


async def agent_status(request: Request) -> Response:
    """Whether an agent can take a message, and if not, why."""
    return Response(body=await _system(request).agent_status(request.route_params["agent_id"]))


async def ask(request: Request) -> Response:
    """Says something to an agent and waits for the answer, tells it as it comes, or returns where to look for it."""
    system, body = _system(request), request.parse(Ask)
    accepted = await system.intake.ask(
        request.route_params["agent_id"],
        body,
        caller=request.caller.name,
        idempotency_key=_idempotency_key(request),
    )
    return await _answer(request, accepted, body)


async def query(request: Request) -> Response:
    """Says something to the agent whose purpose fits; the answer says which one that is, and why."""
    system, body = _system(request), request.parse(Ask)
    accepted = await system.router.query(
        body,
        caller=request.caller.name,
        idempotency_key=_idempotency_key(request),
        may=lambda agent_id: request.caller.scopes is None or request.caller.may(f"agents/{agent_id}:run"),
    )
    return await _answer(request, accepted, body)


async def _answer(request: Request, accepted: Operation, body: Ask) -> Response:
    """What became of an accepted message, as the caller wants to be told."""
    system = _system(request)
    respond_async = "respond-async" in request.headers.get("prefer", "").lower()
    if respond_async:
        # Whoever receives the wake-up drives the turn: on Functions an HTTP instance may end with its request.
        await system.kernel.wake(accepted)
        operation = accepted
    elif wants_events(request.headers.get("accept", "")):
        return _events(system.kernel, accepted, body)
    else:
        system.kernel.start(accepted)
        operation = await system.kernel.wait(accepted, body.timeout_seconds)
    view = operation_view(operation)
    if operation.final:
        return Response(body=view)
    headers = {"Location": location(operation), "Retry-After": "1"}
    return Response(status=202, body=view, headers=headers)


async def operation(request: Request) -> Response:
    """What became of an accepted message."""
    operation = await _system(request).kernel.operation(request.route_params["operation_id"])
    _allow(request, operation, "read", "run")
    return Response(body=operation_view(operation))


async def begin_workflow(request: Request) -> Response:
    """Begins a workflow of several agents' tasks; it is not waited for."""
    workflows, body = _system(request).workflows, request.parse(WorkflowRequest)
    _allow_workflow(request, body.workflow, "run")
    key = _idempotency_key(request)
    workflow_id = body.workflow_id or derive_workflow_id(f"http {request.caller.name}", key)
    run = await workflows.begin(body.workflow, workflow_id)
    view = await workflows.view(run)
    if run.final:
        return Response(body=view)
    headers = {"Location": f"/api/workflows/{workflow_id}", "Retry-After": "1"}
    return Response(status=202, body=view, headers=headers)


async def workflow(request: Request) -> Response:
    """How far a workflow is, and what its steps answered."""
    workflows = _system(request).workflows
    run = await workflows.status(request.route_params["workflow_id"])
    _allow_workflow(request, run.workflow, "read", "run")
    return Response(body=await workflows.view(run))


async def cancel_workflow(request: Request) -> Response:
    """Ends a workflow as cancelled, with the steps that are in work."""
    workflows, workflow_id = _system(request).workflows, request.route_params["workflow_id"]
    _allow_workflow(request, (await workflows.status(workflow_id)).workflow, "run")
    return Response(body=await workflows.view(await workflows.cancel(workflow_id, request.caller.name)))


async def conversation(request: Request) -> Response:
    """A page of what was said in a conversation, in the order in which it was accepted."""
    after = int(request.query.get("after", "0"))
    return Response(body=await _system(request).conversations.page(_conversation(request), after))


async def delete_conversation(request: Request) -> Response:
    """Forgets a conversation, here and in Foundry; 204 also when there is none (any more)."""
    await _system(request).conversations.delete(_conversation(request))
    return Response(status=204)


async def command_agent(request: Request) -> Response:
    """Starts, stops or restarts an agent, and answers with its status."""
    system, agent_id = _system(request), request.route_params["agent_id"]
    order = request.parse(AgentOrder)
    await system.commands.order(agent_id, order.command)
    return Response(body={"command": order.command, **await system.agent_status(agent_id)})


async def reload(request: Request) -> Response:
    """Reads the registries now and answers with what changed."""
    return Response(body=await _system(request).commands.reload())


async def cancel(request: Request) -> Response:
    """Ends an operation as cancelled: 200 when it has ended so, 202 while a model step is let end."""
    operation_id = request.route_params["operation_id"]
    kernel = _system(request).kernel
    if request.caller.scopes is not None:
        _allow(request, await kernel.operation(operation_id), "run")
    operation = await kernel.cancel(operation_id, request.caller.name)
    return Response(status=200 if operation.final else 202, body=operation_view(operation))


async def approvals(request: Request) -> Response:
    """Calls that wait for a person; with `?state=decided` those that were decided, the newest first."""
    state: Listed = "decided" if request.query.get("state") == "decided" else "pending"
    return Response(body=await _system(request).approvals(state, request.query.get("after", "")))


async def decide(request: Request) -> Response:
    """Approves or rejects a call: 200 when that is done, 202 while it is on its way."""
    decision = request.parse(ApprovalDecision)
    view = await _system(request).decide(request.route_params["approval_id"], decision, request.caller.name)
    return Response(status=202 if view["state"] == "pending" else 200, body=view)


async def mcp_servers(request: Request) -> Response:
    """The MCP servers of the registry: running or not, and why not."""
    return Response(body=await _system(request).mcp_servers())


async def mcp_server_status(request: Request) -> Response:
    """One MCP server: its state, its tools, and where they are not what was declared or approved."""
    return Response(body=await _system(request).mcp_server_status(request.route_params["server_id"]))


# --- the bus and timers


async def on_agent_message(message: BusMessage) -> None:
    """Events for agents, results of their tools, commands, and requests of other applications."""
    await _system(message).intake.receive(_incoming(message))


async def on_function_reply(message: StorageMessage) -> None:
    """Replies of Azure Functions that agents have as tools."""
    await _system(message).functions.receive(message.queue, message.body, message.message_id)


async def on_mcp_request(message: BusMessage) -> None:
    """Requests to MCP servers."""
    await _mcp(message).receive(_incoming(message))


async def on_mcp_command(message: BusMessage) -> None:
    """Commands to MCP servers, and requests that were put off."""
    await _mcp(message).receive(_incoming(message))


async def sweep(tick: TimerTick) -> None:
    """Resumes turns that a dead process left behind, and applies deadlines."""
    await _system(tick).sweep()


async def schedules(tick: TimerTick) -> None:
    """Has agents act by themselves whose schedules ticked."""
    await _system(tick).schedules.run()


async def purge(tick: TimerTick) -> None:
    """Removes what is not kept any longer, a piece at a time."""
    await _system(tick).retention.run()


async def reconcile(tick: TimerTick) -> None:
    """Applies what changed in the registries."""
    await _system(tick).reconcile()


# --- inside


def _allow(request: Request, operation: Operation, *actions: str) -> None:
    _allow_agent(request, operation.agent_id, *actions)


def _allow_workflow(request: Request, workflow: Workflow, *actions: str) -> None:
    for agent_id in sorted({step.agent_id for step in workflow.steps}):
        _allow_agent(request, agent_id, *actions)


def _allow_agent(request: Request, agent_id: str, *actions: str) -> None:
    """403 for a caller who is limited to other agents."""
    scopes = [f"agents/{agent_id}:{action}" for action in actions]
    if request.caller.scopes is not None and not any(request.caller.may(scope) for scope in scopes):
        raise Problem(403, "scope_required", detail=f"This needs one of the scopes: {', '.join(scopes)}.")


def _events(kernel: Kernel, accepted: Operation, body: Ask) -> Response:
    # Whoever reads events waits for the end of the turn, unless the body says how long.
    seconds = body.timeout_seconds if "timeout_seconds" in body.model_fields_set else LONGEST_STREAM
    stream = EventStream(kernel, accepted, seconds)
    kernel.start(accepted)
    headers = {"Location": location(accepted), "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(stream=stream, media_type=MEDIA_TYPE, headers=headers)


def _system(carrier: Request | BusMessage | StorageMessage | TimerTick) -> AgentOperatingSystem:
    """What the runtime's initializer built."""
    system: AgentOperatingSystem = carrier.app
    return system


def _conversation(request: Request) -> ConversationKey:
    return ConversationKey(request.route_params["agent_id"], request.route_params["conversation_id"])


def _http(handler: HttpHandler) -> HttpHandler:
    """Errors of AOS as problem documents."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except AosError as error:
            raise _problem(error) from error

    answer.__name__, answer.__doc__ = handler.__name__, handler.__doc__
    return answer


def _problem(error: AosError) -> Problem:
    status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 502)
    headers: dict[str, str] = {}
    if isinstance(error, TransientError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 5.0)))
    return Problem(status, error.code, error.title, error.detail, headers=headers)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        detail = "Idempotency-Key takes 1 to 128 visible ASCII characters."
        raise Problem(400, "invalid_idempotency_key", "The idempotency key is not valid", detail)
    return key


def _incoming(message: BusMessage) -> Incoming:
    entity = message.entity.partition("/")[0]
    delivered(entity, message.enqueued_time)
    return Incoming(
        entity=entity,
        body=message.body,
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        reply_to_session_id=message.reply_to_session_id,
        session_id=message.session_id,
        replay=replay_number(message.application_properties.get(REPLAY)),
    )


def _mcp(message: BusMessage) -> McpServers:
    mcp = _system(message).mcp
    assert mcp is not None  # noqa: S101 - these routes are registered for the role `mcp` only
    return mcp
