"""What the routes do over HTTP: a handler decodes, calls the system, encodes; an error becomes a problem document."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING

from aos.approvals import ApprovalDecision, Listed
from aos.commands import AgentOrder
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
from aos.routing import NoAgentFits
from aos.sse import LONGEST_STREAM, MEDIA_TYPE, EventStream, location, wants_events
from aos.views import operation_view
from aos.workflows import UnknownWorkflow, WorkflowRequest, derive_workflow_id
from runtime import Problem, Request, Response

if TYPE_CHECKING:
    from aos.kernel.kernel import Kernel
    from aos.kernel.types import Operation
    from aos.orchestration.workflow import Workflow
    from aos.system import AgentOperatingSystem

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


def _endpoint(handler: HttpHandler) -> HttpHandler:
    """Errors of AOS as problem documents."""

    @wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except AosError as error:
            raise _problem(error) from error

    return answer


@_endpoint
async def health(request: Request) -> Response:
    """How the system is: 200 when it can do its work, if only in part, else 503."""
    body = await _system(request).checks.report()
    return Response(status=503 if body["status"] == "unhealthy" else 200, body=body)


@_endpoint
async def agent_list(request: Request) -> Response:
    """The agents of the registry, as far as the caller may read them."""
    body = await _system(request).agents.list()
    if request.caller.scopes is not None:
        # Problems say ids and settings of agents as well; of an entry without an id nobody can say whose it is.
        for part in ("agents", "problems"):
            body[part] = [each for each in body[part] if request.caller.may(f"agents/{each['agent_id'] or '*'}:read")]
    return Response(body=body)


@_endpoint
async def agent(request: Request) -> Response:
    """One agent: what it is for, what it may use, which deployment it thinks with."""
    return Response(body=await _system(request).agents.agent(request.route_params["agent_id"]))


@_endpoint
async def agent_status(request: Request) -> Response:
    """Whether an agent can take a message, and if not, why."""
    return Response(body=await _system(request).agents.status(request.route_params["agent_id"]))


@_endpoint
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


@_endpoint
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


@_endpoint
async def operation(request: Request) -> Response:
    """What became of an accepted message."""
    operation = await _system(request).kernel.operation(request.route_params["operation_id"])
    _allow(request, operation, "read", "run")
    return Response(body=operation_view(operation))


@_endpoint
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


@_endpoint
async def workflow(request: Request) -> Response:
    """How far a workflow is, and what its steps answered."""
    workflows = _system(request).workflows
    run = await workflows.status(request.route_params["workflow_id"])
    _allow_workflow(request, run.workflow, "read", "run")
    return Response(body=await workflows.view(run))


@_endpoint
async def cancel_workflow(request: Request) -> Response:
    """Ends a workflow as cancelled, with the steps that are in work."""
    workflows, workflow_id = _system(request).workflows, request.route_params["workflow_id"]
    _allow_workflow(request, (await workflows.status(workflow_id)).workflow, "run")
    return Response(body=await workflows.view(await workflows.cancel(workflow_id, request.caller.name)))


@_endpoint
async def conversation(request: Request) -> Response:
    """A page of what was said in a conversation, in the order in which it was accepted."""
    after = int(request.query.get("after", "0"))
    return Response(body=await _system(request).conversations.page(_conversation(request), after))


@_endpoint
async def delete_conversation(request: Request) -> Response:
    """Forgets a conversation, here and in Foundry; 204 also when there is none (any more)."""
    await _system(request).conversations.delete(_conversation(request))
    return Response(status=204)


@_endpoint
async def command_agent(request: Request) -> Response:
    """Starts, stops or restarts an agent, and answers with its status."""
    system, agent_id = _system(request), request.route_params["agent_id"]
    order = request.parse(AgentOrder)
    await system.commands.order(agent_id, order.command)
    return Response(body={"command": order.command, **await system.agents.status(agent_id)})


@_endpoint
async def reload(request: Request) -> Response:
    """Reads the registries now and answers with what changed."""
    return Response(body=await _system(request).commands.reload())


@_endpoint
async def cancel(request: Request) -> Response:
    """Ends an operation as cancelled: 200 when it has ended so, 202 while a model step is let end."""
    operation_id = request.route_params["operation_id"]
    kernel = _system(request).kernel
    if request.caller.scopes is not None:
        _allow(request, await kernel.operation(operation_id), "run")
    operation = await kernel.cancel(operation_id, request.caller.name)
    return Response(status=200 if operation.final else 202, body=operation_view(operation))


@_endpoint
async def approvals(request: Request) -> Response:
    """Calls that wait for a person; with `?state=decided` those that were decided, the newest first."""
    state: Listed = "decided" if request.query.get("state") == "decided" else "pending"
    return Response(body=await _system(request).approvals(state, request.query.get("after", "")))


@_endpoint
async def decide(request: Request) -> Response:
    """Approves or rejects a call: 200 when that is done, 202 while it is on its way."""
    decision = request.parse(ApprovalDecision)
    view = await _system(request).decide(request.route_params["approval_id"], decision, request.caller.name)
    return Response(status=202 if view["state"] == "pending" else 200, body=view)


@_endpoint
async def mcp_servers(request: Request) -> Response:
    """The MCP servers of the registry: running or not, and why not."""
    return Response(body=await _system(request).servers.list())


@_endpoint
async def mcp_server_status(request: Request) -> Response:
    """One MCP server: its state, its tools, and where they are not what was declared or approved."""
    return Response(body=await _system(request).servers.status(request.route_params["server_id"]))


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


def _conversation(request: Request) -> ConversationKey:
    return ConversationKey(request.route_params["agent_id"], request.route_params["conversation_id"])


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


def _system(carrier: Request) -> AgentOperatingSystem:
    """What the runtime's initializer built."""
    system: AgentOperatingSystem = carrier.app
    return system
