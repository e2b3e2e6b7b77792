"""docs/ray-job.yaml and the commands of docs/beyond-one-machine.md are what KubeRay, Kubernetes, Ray and Polysem take.

No cluster is here. What an operator would check of the manifest is checked by the published schemas (kuberay/), and
each command line by the parser of its own program.
"""

import json
import shlex
from pathlib import Path

import click
import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from polysem.client.commands.measure import measure
from polysem.server import commands

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "beyond-one-machine.md").read_text()
PUBLISHED = Path(__file__).parent / "kuberay"
PODS = Resource.from_contents(json.loads((PUBLISHED / "pods.json").read_text()))
REGISTRY = Registry().with_resource("pods.json", PODS)
RAY_JOB = jsonschema.Draft202012Validator(json.loads((PUBLISHED / "rayjob.json").read_text()), registry=REGISTRY)
CLAIM = jsonschema.Draft202012Validator(
    {"$ref": "pods.json#/$defs/io.k8s.api.core.v1.PersistentVolumeClaim"}, registry=REGISTRY
)


def manifest():
    """The claim and the job."""
    claim, job = yaml.safe_load_all((DOCS / "ray-job.yaml").read_text())
    return claim, job


def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    templates = job["spec"]["submitterPodTemplate"], cluster["headGroupSpec"]["template"], workers["template"]
    return [template["spec"] for template in templates]


def parsed(command, arguments):
    """What a click command makes of its arguments; nothing is run."""
    with command.make_context(command.name, list(arguments)) as context:
        return context.params


def check_index_command(words):
    assert words[:2] == ["polysem", "index"]
    found = parsed(commands.index, words[2:])
    assert (found["executor"], found["ray_address"]) == ("ray", "auto")
    assert "://" in found["out"] or Path(found["out"]).is_absolute()
    return found


def lines(beginning):
    """Commands of the page that begin so."""
    found = [shlex.split(line, comments=True) for line in PAGE.splitlines() if line.startswith(f"    {beginning} ")]
    assert found
    return found


def test_the_manifest_keeps_the_published_schemas():
    claim, job = manifest()
    CLAIM.validate(claim)
    RAY_JOB.validate(job)


@pytest.mark.parametrize(
    "misspell",
    [
        lambda job: job["spec"].update(shutdownAfterJobFinish=True),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(replica=8),
        lambda job: pods(job)[2]["containers"][0].update(resource={}),
        lambda job: pods(job)[1]["securityContext"].update(runAsNonRoots=True),
        lambda job: pods(job)[1]["volumes"][0]["persistentVolumeClaim"].update(claim="polysem-data"),
    ],
)
def test_the_schema_would_notice_a_mistake(misspell):
    _, job = manifest()
    misspell(job)
    with pytest.raises(jsonschema.ValidationError, match="Additional properties are not allowed"):
        RAY_JOB.validate(job)


@pytest.mark.parametrize(
    "breaks",
    [
        lambda job: job["spec"].pop("entrypoint"),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].pop("rayStartParams"),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda job: job["spec"].update(backoffLimit="2"),
    ],
)
def test_the_schema_would_notice_what_is_missing_or_of_another_type(breaks):
    _, job = manifest()
    breaks(job)
    with pytest.raises(jsonschema.ValidationError):
        RAY_JOB.validate(job)


def test_nobody_is_root_and_no_usage_is_reported():
    for pod in pods(manifest()[1]):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]


def test_the_cluster_goes_away_and_the_index_stays():
    claim, job = manifest()
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    _, head, _ = pods(job)
    (volume,) = head["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    out = Path(parsed(commands.index, shlex.split(job["spec"]["entrypoint"])[2:])["out"])
    assert out.is_relative_to(head["containers"][0]["volumeMounts"][0]["mountPath"])


def test_the_cluster_has_the_workers_that_the_command_waits_for():
    _, job = manifest()
    found = check_index_command(shlex.split(job["spec"]["entrypoint"]))
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"]
    assert found["ray_workers"] * found["ray_gpus"] == workers["replicas"] * gpus
    assert "nvidia.com/gpu" not in str(pods(job)[1])


def test_the_pages_own_commands_are_what_polysem_takes():
    for words in lines("polysem index"):
        check_index_command(words)
    for words in lines("polysem measure"):
        assert parsed(measure, words[2:])["executor"] == "ray"


def test_the_pages_jobs_are_what_ray_takes():
    submit = pytest.importorskip("ray.dashboard.modules.job.cli").submit
    for words in lines("ray job submit"):
        check_index_command(list(parsed(submit, words[3:])["entrypoint"]))


def test_the_pages_clusters_are_what_ray_takes():
    start = pytest.importorskip("ray.scripts.scripts").start
    for words in lines("ray start"):
        assert parsed(start, words[2:])["disable_usage_stats"]


def test_a_misspelt_flag_of_ray_would_be_noticed():
    submit = pytest.importorskip("ray.dashboard.modules.job.cli").submit
    with pytest.raises(click.NoSuchOption):
        parsed(submit, ["--adress", "http://head:8265", "--", "polysem", "index"])
