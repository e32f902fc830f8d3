"""A workspace of Azure Machine Learning, as far as the pipeline needs one: its management and run history over HTTP.

Assets lie in Azurite, where the SDK itself uploads them. A submitted job is run: its code is fetched from there into an
empty folder and its command started with the inputs and outputs that the job names; what it leaves is uploaded again.
What a cluster adds (containers, images, queues, quotas) is only acted out by `Faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import re
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import ContainerSasPermissions, generate_container_sas
from azure.storage.blob.aio import ContainerClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
GROUP, WORKSPACE = "rg-aos", "ws-aos"
ROOT = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.MachineLearningServices"
    f"/workspaces/{WORKSPACE}"
)
MANAGEMENT = "https://management.azure.com"
API = "https://northeurope.api.azureml.ms"
CONTAINER = "azureml-blobstore"
Json = dict[str, Any]


@dataclass
class Faults:
    """What goes wrong.

    Attributes:
        refuse: Status, code and message of the next answers to requests whose `METHOD path` contains the key.
        slow_compute: How often a cluster is looked at before it is made.
        failed_compute: Why making it fails then.
    """

    refuse: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    failed_compute: str | None = None
    slow_compute: int = 0


class AzureMLService:
    """`app` is what its hosts answer with.

    Args:
        connection_string: Of the storage account (Azurite) behind the workspace.
        folder: Where jobs run.
    """

    def __init__(self, connection_string: str, folder: Path) -> None:
        self._storage = connection_string
        parts = dict(part.split("=", 1) for part in connection_string.split(";") if part)
        self._account, self._key = parts["AccountName"], parts["AccountKey"]
        self.blobs = parts["BlobEndpoint"]
        self.folder = folder
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []
        self.put: dict[str, Json] = {}
        """Assets, computes and endpoints by their path below the workspace."""
        self.jobs: dict[str, Json] = {}
        self.errors: dict[str, str] = {}
        self.hold_jobs = False
        """Whether jobs stay in the queue."""
        self.hub: dict[str, Path] = {}
        """Models that a node finds under a name, as those of the Hugging Face hub."""
        self._work: dict[str, asyncio.Task[None]] = {}

    def reset(self) -> None:
        """Forgets what happened; what is in storage stays."""
        self.faults, self.hold_jobs = Faults(), False
        for known in (self.requests, self.put, self.jobs, self.errors, self.hub):
            known.clear()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/discovery", self._discovery),
                Route("/history/v1.0/{rest:path}", self._history),
                Mount(
                    ROOT, routes=[Route("/{path:path}", self._asset, methods=["GET", "PUT", "POST", "DELETE", "PATCH"])]
                ),
                Route(ROOT, self._workspace),
                Route("/{rest:path}", _not_found, methods=["GET", "PUT", "POST", "DELETE", "PATCH"]),
            ]
        )

    def endpoints(self) -> Starlette:
        """Online endpoints under any name; each says who it is, with which key it was asked, and what."""

        async def score(request: Request) -> Response:
            name = (request.url.hostname or "").partition(".")[0]
            key = request.headers.get("authorization", "").removeprefix("Bearer ")
            asked = (await request.json())["input_data"]["input_string"][-1]["content"]
            return JSONResponse({"output": f"{name}, {key}: {asked}"})

        return Starlette(routes=[Route("/score", score, methods=["POST"])])

    # --- resources

    async def _workspace(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        properties = {"discoveryUrl": f"{API}/discovery", "workspaceId": "w1", "provisioningState": "Succeeded"}
        return JSONResponse({"id": ROOT, "name": WORKSPACE, "location": "northeurope", "properties": properties})

    async def _discovery(self, request: Request) -> Response:
        return JSONResponse({"api": API, "history": API, "studio": "https://ml.azure.com"})

    async def _history(self, request: Request) -> Response:
        self.requests.append((request.method, request.url.path))
        name = re.search(r"/runs/([^/]+)", request.url.path)
        job = self.jobs.get(name[1]) if name else None
        if name is None or job is None:
            return await _not_found(request)
        details: Json = {"runId": name[1], "status": job["properties"]["status"], "logFiles": {}}
        if name[1] in self.errors:
            details["error"] = {"error": {"code": "UserError", "message": self.errors[name[1]]}}
        return JSONResponse(details)

    async def _asset(self, request: Request) -> Response:
        path = request.path_params["path"]
        self.requests.append((request.method, path))
        if (refused := self._refused(request)) is not None:
            return refused
        body: Json = await request.json() if await request.body() else {}
        if path.startswith("operations/"):
            return self._operation(path.split("/")[1])
        if path.startswith("datastores"):
            return await self._datastore(path)
        if path.endswith("/startPendingUpload"):
            return await self._pending_upload(path)
        if request.method == "PUT" and path.startswith("jobs/"):
            return self._submitted(path.split("/")[1], body)
        if request.method == "GET" and path.startswith("jobs/") and (job := self.jobs.get(path.split("/")[1])):
            return JSONResponse(job)
        if request.method == "PUT":
            return await self._made(path, body)
        if request.method == "GET" and path in self.put:
            return JSONResponse(self.put[path])
        if request.method == "GET" and path.startswith("codes/") and path.endswith("/versions"):
            return JSONResponse({"value": []})
        if request.method == "GET" and path.endswith("/deployments"):
            return JSONResponse({"value": [made for key, made in self.put.items() if key.startswith(f"{path}/")]})
        if path.startswith("jobs/") and path.endswith("/cancel"):
            return self._cancelled(path.split("/")[1])
        return await _not_found(request)

    def _operation(self, name: str) -> Response:
        if self.faults.slow_compute:
            self.faults.slow_compute -= 1
            return JSONResponse({"status": "InProgress"}, headers={"Retry-After": "1"})
        if self.faults.failed_compute is not None:
            error = {"code": "ClusterCoreQuotaReached", "message": self.faults.failed_compute}
            return JSONResponse({"status": "Failed", "error": error})
        return JSONResponse({"status": "Succeeded"})

    async def _datastore(self, path: str) -> Response:
        await self._container(CONTAINER)
        if path.endswith("/listSecrets"):
            return JSONResponse({"secretsType": "Sas", "sasToken": self._sas(CONTAINER)})
        properties = {
            "datastoreType": "AzureBlob",
            "accountName": self._account,
            "containerName": CONTAINER,
            "endpoint": "core.windows.net",
            "protocol": "https",
            "credentials": {"credentialsType": "Sas"},
            "isDefault": True,
        }
        return JSONResponse({"id": f"{ROOT}/{path}", "name": "workspaceblobstore", "properties": properties})

    async def _pending_upload(self, path: str) -> Response:
        container = f"code-{path.split('/')[1]}"
        await self._container(container)
        uri = f"https://{self._account}.blob.core.windows.net/{container}"
        reference = {"blobUri": uri, "credential": {"credentialType": "SAS", "sasUri": f"{uri}?{self._sas(container)}"}}
        return JSONResponse({"blobReferenceForConsumption": reference, "pendingUploadType": "TemporaryBlobReference"})

    def _sas(self, container: str) -> str:
        return generate_container_sas(
            self._account,
            container,
            account_key=self._key,
            permission=ContainerSasPermissions(read=True, write=True, list=True, add=True, create=True, delete=True),
            expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1),
        )

    async def _made(self, path: str, body: Json) -> Response:
        known = path in self.put
        made = {"id": f"{ROOT}/{path}", "name": path.rsplit("/", 1)[1], **body}
        made["properties"] = {**body.get("properties", {}), "provisioningState": "Succeeded"}
        if path.startswith("models/"):
            made["properties"]["flavors"] = {}
        if re.fullmatch(r"onlineEndpoints/[^/]+", path):
            made["properties"]["scoringUri"] = f"https://{made['name']}.northeurope.inference.ml.azure.com/score"
        self.put[path] = made
        if "/deployments/" in path:
            made["properties"]["scaleSettings"] = {"scaleType": "Default"}
        if path.startswith("computes/") and self.faults.slow_compute:
            # A long operation: it is looked at once more before it is done.
            self.faults.slow_compute -= 1
            where = f"{MANAGEMENT}{ROOT}/operations/{made['name']}"
            return JSONResponse(made, 201, {"Azure-AsyncOperation": where, "Retry-After": "1"})
        return JSONResponse(made, 200 if known else 201)

    # --- jobs

    def _submitted(self, name: str, body: Json) -> Response:
        services = {"Studio": {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{name}?wsid={ROOT}"}}
        job: Json = {
            "id": f"{ROOT}/jobs/{name}",
            "name": name,
            "properties": {**body["properties"], "services": services},
        }
        job["properties"]["status"] = "Queued"
        self.jobs[name] = job
        if not self.hold_jobs:
            self._work[name] = asyncio.create_task(self._run(name, job["properties"]))
        return JSONResponse(job, 201)

    def _cancelled(self, name: str) -> Response:
        if name in self._work:
            self._work[name].cancel()
        self.jobs[name]["properties"]["status"] = "Canceled"
        return Response(status_code=200)

    async def _run(self, name: str, properties: Json) -> None:
        """Does what a node does with a command job."""
        properties["status"] = "Running"
        folder = self.folder / name
        code = self.put[_below(properties["codeId"])]["properties"]["codeUri"]
        await self.fetch(code, folder / "code")
        for model, there in self.hub.items():
            (folder / "code" / model).parent.mkdir(parents=True, exist_ok=True)
            (folder / "code" / model).symlink_to(there)
        values = {}
        for key, given in (properties.get("inputs") or {}).items():
            values[f"inputs.{key}"] = await self.fetch(given["uri"], folder / "inputs" / key)
        for key in properties["outputs"]:
            values[f"outputs.{key}"] = folder / "outputs" / key
            (folder / "outputs" / key).mkdir(parents=True)
        command = re.sub(r"\$\{\{([\w.]+)\}\}", lambda found: str(values[found[1]]), properties["command"])
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        alone = {key: value for key, value in os.environ.items() if "PROXY" not in key and key != "PYTHONPATH"}
        child = await asyncio.create_subprocess_shell(
            command,
            cwd=folder / "code",
            env={**alone, "PATH": path, **(properties.get("environmentVariables") or {}), "OMP_NUM_THREADS": "1"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, said = await child.communicate()
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                await child.wait()
        if child.returncode:
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            self.errors[name] = f"Execution failed. User process exited with status code {child.returncode}. {last}"
            properties["status"] = "Failed"
            return
        for key in properties["outputs"]:
            await self._keep(folder / "outputs" / key, f"azureml/{name}/{key}")
        properties["status"] = "Completed"

    async def _container(self, name: str) -> None:
        async with ContainerClient.from_connection_string(self._storage, name) as client:
            with contextlib.suppress(ResourceExistsError):
                await client.create_container()

    async def fetch(self, uri: str, into: Path) -> Path:
        """A blob, or all blobs below a name; where it lies."""
        if uri.startswith("azureml:"):
            container, _, name = CONTAINER, "", uri.partition("/paths/")[2]
        else:
            container, _, name = uri.partition(".blob.core.windows.net/")[2].partition("/")
        await asyncio.to_thread(into.mkdir, parents=True)
        async with ContainerClient.from_connection_string(self._storage, container) as client:
            async for blob in client.list_blobs(name_starts_with=name.rstrip("/")):
                inside = blob.name[len(name.rstrip("/")) :].lstrip("/")
                target = into / (inside or Path(name).name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(await (await client.download_blob(blob.name)).readall())
                if not inside:
                    return target
        return into

    async def _keep(self, folder: Path, name: str) -> None:
        async with ContainerClient.from_connection_string(self._storage, CONTAINER) as client:
            for file in await asyncio.to_thread(lambda: [path for path in folder.rglob("*") if path.is_file()]):
                await client.upload_blob(f"{name}/{file.relative_to(folder)}", file.read_bytes(), overwrite=True)

    def _refused(self, request: Request) -> Response | None:
        for part, answers in self.faults.refuse.items():
            if part in f"{request.method} {request.url.path}" and answers:
                status, code, message = answers.pop(0)
                return JSONResponse({"error": {"code": code, "message": message}}, status)
        return None


async def _not_found(request: Request) -> Response:
    message = f"{request.method} {request.url.path} could not be found."
    return JSONResponse({"error": {"code": "ResourceNotFound", "message": message}}, 404)


def _below(resource: str) -> str:
    """A resource's path below the workspace."""
    return resource.removeprefix("azureml:").removeprefix(f"{ROOT}/")
