"""The Dockerfile's instructions, as far as they can be judged without building it (`test_package` runs its command)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from pathspec import GitIgnoreSpec

from tests.publish import code_settings
from tests.publish.image import Image
from tests.publish.staging import ROOT

IMAGE = Image.of(ROOT / "Dockerfile")
TEXT = (ROOT / "docs/containers.md").read_text(encoding="utf-8")


def test_bases_are_pinned_by_tag_and_slim() -> None:
    bases = [line.split()[0] for line in IMAGE.all("FROM")]
    assert set(bases) == {"python:3.12-slim-bookworm"}


def test_what_is_copied_exists_and_is_sent() -> None:
    ignored = GitIgnoreSpec.from_lines((ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines())
    for sources, _ in IMAGE.copies():
        for source in sources:
            assert (ROOT / source).exists(), source
            assert not ignored.match_file(source), f"{source} is not sent to the builder"
    for left in ("local.settings.json", ".git/config", "tests/conftest.py", ".env"):
        assert ignored.match_file(left)


def test_the_last_stage_is_not_root_and_has_no_build_tools() -> None:
    names = [name for name, _ in IMAGE.final]
    (user,) = [rest for name, rest in IMAGE.final if name == "USER"]
    assert re.fullmatch(r"[1-9]\d{3,}", user)  # a number: Kubernetes cannot tell from a name that it is not root
    assert names.index("USER") < names.index("CMD")
    assert all("pip" not in rest and "apt" not in rest for name, rest in IMAGE.final if name == "RUN")


def test_its_settings_exist() -> None:
    ours = {name for name in IMAGE.environment if name.startswith("AOS_")}
    assert ours <= code_settings.all_settings()
    assert IMAGE.all("EXPOSE") == [IMAGE.environment["AOS_PORT"]]
    assert IMAGE.environment["AOS_HOST"] == "0.0.0.0"  # noqa: S104  # within its own network namespace


def test_its_command_is_one_that_exists() -> None:
    assert IMAGE.command[:2] == ["python", "-m"]
    helped = subprocess.run(
        [sys.executable, *IMAGE.command[1:], "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert helped.returncode == 0, helped.stderr
    compile(IMAGE.health_check[2], "HEALTHCHECK", "exec")


def test_without_a_key_it_refuses_to_serve(tmp_path: Path) -> None:
    settings = {**os.environ, "AOS_HOST": "0.0.0.0", "AOS_PORT": "0", "PYTHONPATH": str(ROOT)}  # noqa: S104
    for name in ("AOS_FUNCTION_KEY", "AOS_ADMIN_KEY"):
        settings.pop(name, None)
    done = subprocess.run(
        [sys.executable, *IMAGE.command[1:]], cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert f"> {done.stderr.strip().splitlines()[-1]}" in TEXT.splitlines()


def manifests() -> list[dict[str, object]]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def test_the_manifest_fits_the_image() -> None:
    kinds = {str(manifest["kind"]): manifest for manifest in manifests()}
    assert set(kinds) == {"Deployment", "Service", "ServiceAccount"}
    spec = kinds["Deployment"]["spec"]
    assert isinstance(spec, dict)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert str(container["ports"][0]["containerPort"]) == IMAGE.environment["AOS_PORT"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    # The image's own entry point reaps what AOS did not start.
    assert not {"command", "args"} & container.keys()
    assert {entry["name"] for entry in container["env"]} <= code_settings.all_settings()
    assert container["readinessProbe"]["httpGet"]["path"] == "/api/health"
    # A liveness probe on health would restart the app while a service that it needs is down.
    assert "httpGet" not in container["livenessProbe"]
    assert kinds["ServiceAccount"]["metadata"]["name"] == pod["serviceAccountName"]  # type: ignore[index]


def test_container_apps_get_settings_that_exist() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.M | re.S)
    (block,) = [found for found in blocks if "--env-vars" in found]
    names = set(re.findall(r"\s([A-Z][A-Za-z_]+)=", block.split("--env-vars", 1)[1]))
    assert len(names) > 5
    assert names <= code_settings.all_settings()


def test_an_init_that_reaps_orphans_is_the_first_process() -> None:
    # Also where it is not the first one, as under `docker run --init`: then as a subreaper, without a warning.
    assert IMAGE.entry_point == ["tini", "-s", "--"]
    assert "--from=build /usr/bin/tini-static /usr/bin/tini" in IMAGE.all("COPY")
    (installed,) = [line for line in IMAGE.all("RUN") if "apt-get install" in line]
    assert installed.split()[-1] == "tini"


def test_telemetry_signs_in_as_the_function_app_does() -> None:
    bicep = (ROOT / "infra/modules/function.bicep").read_text(encoding="utf-8")
    (told,) = re.findall(r"APPLICATIONINSIGHTS_AUTHENTICATION_STRING: '(.*?)'", bicep)
    signs_in = dict(pair.split("=") for pair in told.split(";"))
    (said,) = re.findall(r"`APPLICATIONINSIGHTS_AUTHENTICATION_STRING` to\n`(.*?)`", TEXT)
    assert dict(pair.split("=") for pair in said.split(";")) == {
        **signs_in,
        "ClientId": "<client id of the identity>",
    }
