# AOS on the ASGI runtime, for Container Apps, Kubernetes or any other container host: docs/containers.md
FROM python:3.12-slim-bookworm AS build
WORKDIR /app
COPY requirements.txt ./
RUN apt-get update && apt-get install --no-install-recommends -y tini
RUN python -m venv /opt/aos && /opt/aos/bin/python -m pip install --no-cache-dir -r requirements.txt

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 10001 aos
WORKDIR /app
COPY --from=build /opt/aos /opt/aos
COPY --from=build /usr/bin/tini-static /usr/bin/tini
COPY aos ./aos
COPY runtime ./runtime
COPY examples ./examples
COPY agent_registry.json mcp_server_registry.json ./
ENV PATH=/opt/aos/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 AOS_HOST=0.0.0.0 AOS_PORT=8080
RUN ["python", "-m", "compileall", "-q", "aos", "runtime"]
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['AOS_PORT'] + '/api/health')"]
# The first process reaps orphans: what MCP servers started (`npx` starts `node`), and AOS did not.
ENTRYPOINT ["tini", "-s", "--"]
CMD ["python", "-m", "aos", "serve"]
