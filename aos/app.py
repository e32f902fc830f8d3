"""The routes of AOS: what is reached where, by whom, and with which answers (`aos.endpoints`, `aos.triggers`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aos import endpoints, triggers
from aos.approvals import ApprovalDecision
from aos.commands import AgentOrder
from aos.config import SERVICE_BUS, STORAGE, Settings
from aos.conversations import ConversationView
from aos.intake import Ask
from aos.messaging.envelopes import (
    AGENT_COMMANDS,
    AGENT_EVENTS,
    AOS_REQUESTS,
    MCP_COMMANDS,
    MCP_REQUESTS,
    MCP_RESPONSES,
)
from aos.workflows import WorkflowRequest
from runtime import (
    Answers,
    AuthLevel,
    HttpMethod,
    Parameter,
    RouteRegistry,
)

AGENTS_SUBSCRIPTION = "realm-agents"
SERVERS_SUBSCRIPTION = "mcp-servers"

# A key or token may be limited to agents: these are its scopes. Approving is apart: who talks to an agent must not
# approve its writes.
READ, RUN, READ_ALL, APPROVER = "agents/{agent_id}:read", "agents/{agent_id}:run", "agents/*:read", "approver"

_OPERATION = Answers("The operation as it ended.", "aos.answers:OperationAnswer")
_GOES_ON = Answers("The operation goes on.", "aos.answers:OperationAnswer")
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
        endpoints.health,
        auth_level=AuthLevel.ANONYMOUS,
        name="health",
        tags=["system"],
        response_model="aos.answers:HealthAnswer",
        answers={
            # Not only a problem: the body of an unhealthy system says what is wrong with it.
            503: Answers("It cannot do its work, or could not start.", "aos.answers:HealthAnswer")
        },
    )
    registry.register(
        "mcp/servers",
        endpoints.mcp_servers,
        name="mcp_servers",
        tags=["system"],
        response_model="aos.answers:ServerListAnswer",
        scopes=(READ_ALL,),
        problems=(502,),
    )
    registry.register(
        "mcp/servers/{server_id}/status",
        endpoints.mcp_server_status,
        name="mcp_server_status",
        tags=["system"],
        response_model="aos.answers:ServerStatusAnswer",
        scopes=(READ_ALL,),
        problems=(404, 502),
    )
    if "agents" in settings.roles:
        _agent_routes(registry, settings)
    if "mcp" in settings.roles:
        registry.register_topic(
            MCP_REQUESTS,
            SERVERS_SUBSCRIPTION,
            triggers.on_mcp_request,
            connection=SERVICE_BUS,
            name="on_mcp_request",
            required=False,
        )
        registry.register_queue(
            MCP_COMMANDS, triggers.on_mcp_command, connection=SERVICE_BUS, name="on_mcp_command", required=False
        )
    return registry


def _agent_routes(registry: RouteRegistry, settings: Settings) -> None:
    registry.register(
        "agents",
        endpoints.agent_list,
        name="agent_list",
        tags=["agents"],
        response_model="aos.answers:AgentListAnswer",
        problems=(502,),
    )
    registry.register(
        "agents/{agent_id}",
        endpoints.agent,
        name="agent",
        tags=["agents"],
        response_model="aos.answers:AgentAnswer",
        scopes=(READ,),
        problems=(404, 502),
    )
    registry.register(
        "agents/{agent_id}/status",
        endpoints.agent_status,
        name="agent_status",
        tags=["agents"],
        response_model="aos.answers:AgentStatusAnswer",
        scopes=(READ,),
        problems=(404, 502),
    )
    registry.register(
        "agents/{agent_id}",
        endpoints.ask,
        [HttpMethod.POST],
        name="ask",
        tags=["agents"],
        request_model=Ask,
        answers={
            200: Answers(
                "The answer.",
                "aos.answers:OperationAnswer",
                {"text/event-stream": "The turn as it goes, event by event."},
            ),
            202: Answers("The turn goes on.", "aos.answers:OperationAnswer", headers=_LATER),
        },
        parameters=_ASKING,
        scopes=(RUN,),
        sensitive=True,
        problems=(404, 409, 429, 502),
    )
    registry.register(
        "query",
        endpoints.query,
        [HttpMethod.POST],
        name="query",
        tags=["agents"],
        request_model=Ask,
        answers={
            200: Answers(
                "The answer.",
                "aos.answers:OperationAnswer",
                {"text/event-stream": "The turn as it goes, event by event."},
            ),
            202: Answers("The turn goes on.", "aos.answers:OperationAnswer", headers=_LATER),
        },
        parameters=_ASKING,
        sensitive=True,
        problems=(404, 409, 429, 502),
    )
    registry.register(
        "operations/{operation_id}",
        endpoints.operation,
        name="operation",
        tags=["operations"],
        response_model="aos.answers:OperationAnswer",
        sensitive=True,
        problems=(404, 502),
    )
    registry.register(
        "workflows",
        endpoints.begin_workflow,
        [HttpMethod.POST],
        name="begin_workflow",
        tags=["workflows"],
        request_model=WorkflowRequest,
        answers={
            200: Answers("It had been begun, and has ended.", "aos.answers:WorkflowAnswer"),
            202: Answers("It goes on.", "aos.answers:WorkflowAnswer", headers=_LATER),
        },
        parameters=(
            Parameter("idempotency-key", "header", description="The same key names the same workflow for ever."),
        ),
        sensitive=True,
        problems=(404, 409, 429, 502),
    )
    registry.register(
        "workflows/{workflow_id}",
        endpoints.workflow,
        name="workflow",
        tags=["workflows"],
        response_model="aos.answers:WorkflowAnswer",
        sensitive=True,
        problems=(404, 502),
    )
    registry.register(
        "workflows/{workflow_id}",
        endpoints.cancel_workflow,
        [HttpMethod.DELETE],
        name="cancel_workflow",
        tags=["workflows"],
        response_model="aos.answers:WorkflowAnswer",
        sensitive=True,
        problems=(404, 409, 502),
    )
    registry.register(
        "agents/{agent_id}/conversations/{conversation_id}",
        endpoints.conversation,
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
        endpoints.delete_conversation,
        [HttpMethod.DELETE],
        name="delete_conversation",
        tags=["conversations"],
        answers={204: Answers("It is forgotten, here and in Foundry.")},
        scopes=(RUN,),
        problems=(409, 502),
    )
    registry.register(
        "agents/{agent_id}/commands",
        endpoints.command_agent,
        [HttpMethod.POST],
        auth_level=AuthLevel.ADMIN,
        name="command_agent",
        tags=["agents"],
        request_model=AgentOrder,
        response_model="aos.answers:CommandAnswer",
        problems=(404, 502),
    )
    registry.register(
        "registry/reload",
        endpoints.reload,
        [HttpMethod.POST],
        auth_level=AuthLevel.ADMIN,
        name="reload_registry",
        tags=["system"],
        response_model="aos.answers:ReloadAnswer",
        problems=(502,),
    )
    registry.register(
        "operations/{operation_id}",
        endpoints.cancel,
        [HttpMethod.DELETE],
        name="cancel",
        tags=["operations"],
        answers={200: _OPERATION, 202: _GOES_ON},
        sensitive=True,
        problems=(404, 409, 502),
    )
    registry.register(
        "approvals",
        endpoints.approvals,
        auth_level=AuthLevel.ADMIN,
        name="approvals",
        tags=["approvals"],
        response_model="aos.answers:ApprovalPageAnswer",
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
        endpoints.decide,
        [HttpMethod.POST],
        auth_level=AuthLevel.ADMIN,
        name="decide",
        tags=["approvals"],
        request_model=ApprovalDecision,
        answers={
            200: Answers("Done.", "aos.answers:ApprovalAnswer"),
            202: Answers("On its way.", "aos.answers:ApprovalAnswer"),
        },
        scopes=(APPROVER,),
        sensitive=True,
        problems=(404, 409, 502),
    )
    registry.register_topic(
        AGENT_EVENTS,
        AGENTS_SUBSCRIPTION,
        triggers.on_agent_message,
        connection=SERVICE_BUS,
        name="on_agent_event",
        sessions=settings.events_sessions,
        required=False,
    )
    registry.register_topic(
        MCP_RESPONSES,
        AGENTS_SUBSCRIPTION,
        triggers.on_agent_message,
        connection=SERVICE_BUS,
        name="on_mcp_response",
        required=False,
    )
    registry.register_queue(
        AGENT_COMMANDS, triggers.on_agent_message, connection=SERVICE_BUS, name="on_agent_command", required=False
    )
    registry.register_queue(
        AOS_REQUESTS, triggers.on_agent_message, connection=SERVICE_BUS, name="on_aos_request", required=False
    )
    for queue in settings.function_output_queues:
        registry.register_storage_queue(
            queue, triggers.on_function_reply, connection=STORAGE, name=f"on_reply_{queue}", required=False
        )
    registry.register_timer("sweep", f"*/{settings.sweep_seconds} * * * * *", triggers.sweep)
    registry.register_timer("reconcile", "0 */5 * * * *", triggers.reconcile)
    registry.register_timer("purge", "0 */10 * * * *", triggers.purge)
    registry.register_timer("schedules", "0 * * * * *", triggers.schedules)
