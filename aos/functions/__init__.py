"""Azure Functions as tools of agents, called over storage queues: in any language, in any function app.

A call is a message `{...arguments, "CorrelationId"}` in the function's input queue; its reply `{"Value",
"CorrelationId"}` comes from the output queue as an event of the turn. Nothing waits in between.
"""

from __future__ import annotations

from aos.functions.tool import AzureFunctionStorageQueue as AzureFunctionStorageQueue
from aos.functions.tool import AzureFunctionTool as AzureFunctionTool
