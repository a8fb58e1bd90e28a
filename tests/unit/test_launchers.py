"""Claims about the examples for clusters and containers: they parse, match their schemas, and name existing files."""

import fnmatch
import re
import shlex
import shutil
import subprocess

import pytest
import typer.main
import yaml

from mbkd.cli import app as mbkd_app
from mbkd.serve.server import LAST_SECONDS
from tests.conftest import ROOT

SCRIPTS = sorted([*ROOT.glob("launchers/*.sh"), ROOT / ".ci" / "run"])
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def load(name):
    return list(yaml.safe_load_all((ROOT / "launchers" / name).read_text(encoding="utf-8")))


def validate(resource):
    """Raise if Kubernetes' strict schema refuses a resource."""
    pytest.importorskip("kubernetes_validate").validate(resource, "1.34", strict=True)


def tool(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; pip install '.[dev]'")
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_shell_script_passes_its_linter(script):
    for command in (["bash", "-n"], [tool("shellcheck")]):
        done = subprocess.run([*command, script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_passes_its_linter():
    done = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_an_ordinary_user_and_installs_existing_extras():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 1000$", last, re.MULTILINE) and '\nENTRYPOINT ["mbkd"]' in last
    extras = re.search(r'"\.\[([\w,]+)\]"', DOCKERFILE)[1].split(",")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = ", text, re.MULTILINE) for extra in extras)


def test_the_image_contains_the_needed_files_and_no_others():
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    assert "*" in rules and all((ROOT / name).exists() for name in allowed)
    for name in (
        "mbkd",
        "tuning",
        "analysis",
        "launchers",
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
    ):
        assert any(fnmatch.fnmatch(name, rule) for rule in allowed)
    for name in (".git", ".venv", "runs", "tests", "docs"):
        assert not any(fnmatch.fnmatch(name, rule) for rule in allowed)


def test_the_deployment_matches_its_schema_and_the_server():
    deployment, service = load("serve.yaml")
    for resource in (deployment, service):
        validate(resource)
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    name, *arguments = container["args"]
    with typer.main.get_command(mbkd_app).commands[name].make_context(name, arguments) as context:
        assert context.params["host"] == "0.0.0.0"
        assert [{"name": "http", "containerPort": context.params["port"]}] == container["ports"]
    assert pod["metadata"]["labels"].items() >= service["spec"]["selector"].items()
    assert {container[x]["httpGet"]["path"] for x in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "/healthz"
    }
    slept = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > slept + LAST_SECONDS


def test_the_kuberay_sweep_matches_its_schema_and_runs_a_valid_command():
    (job,) = load("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert f"\nray=={cluster['rayVersion']} " in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]})
        spec = group["template"]["spec"]
        mounted = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounted == {"work": "/mbkd", "shm": "/dev/shm"} and {x["name"] for x in spec["volumes"]} == set(mounted)
    for group in groups[1:]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] and group["groupName"]
    python, flag, module, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "tuning.sweep")
    from tuning.sweep import app

    with typer.main.get_command(app).make_context(module, arguments) as context:
        assert context.params["address"] == "auto"
        assert str(context.params["root"]).startswith(mounted["work"])
