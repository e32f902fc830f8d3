"""An emulator of the Microsoft Foundry Agent Service for the unmodified SDKs.

    python -m emulators.foundry --port P [--host H] [--model offline|URL] [--db FILE] [--deployments FILE]
        [--latency-ms N] [--on-disconnect finish|drop] [--context-window N] [--run-expiry-seconds N] [--no-threads]

or ``async with FoundryEmulator() as emulator:`` and then `emulator.endpoint`. Any bearer token or ``api-key`` is
accepted. The clients want: ``AIProjectClient(endpoint, credential, authentication_policy=HeadersPolicy({"api-key":
"local"}))``, as azure-core sends no tokens over plain HTTP, and ``project.get_openai_client(api_key="local")``; the
threads protocol of the classic generation is for ``AgentsClient`` of azure-ai-agents 1.x, with the same policy.

For tests, below the server's root:

- ``POST /_emulator/faults {"status": 400-599, "times": 1, "retry_after"?: seconds, "path_contains"?: "", "method"?,
  "code"?, "message"?}`` answers the next ``times`` matching requests with that error, before anything is stored;
  ``GET`` lists what is left, ``DELETE`` clears it.
- ``POST /_emulator/model_faults {"code", "message"?, "times"?: 1}`` lets the next ``times`` steps of the model fail, so
  that an accepted run or response reports the error; ``GET`` and ``DELETE`` as above.
- ``GET /_emulator/calls`` gives ``{"counts": {"METHOD /path/{template}": n}, "recent": [{method, path, status, code,
  at, duration_ms}]}`` (the last 200); ``DELETE`` starts anew.
- lines ``@tool NAME {json}``, ``@say TEXT``, ``@fail REASON`` in a message direct the offline model
  (`emulators.foundry.offline.directives`).
"""

from __future__ import annotations

from emulators.foundry.server import FoundryEmulator

__all__ = ["FoundryEmulator"]
