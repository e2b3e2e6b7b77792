"""The container's files: valid by the published schema, linted, agreeing with each other, and their command runs.

No engine builds the image here. What the image would run is run instead as another user, without capabilities, with a
read-only root, no home, and folders in place of the volumes: where a root shell can make such a place (util-linux).
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from numba.core.caching import UserProvidedCacheLocator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import polysem.kernels.large
import polysem.server.indexing.selection

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "docker-compose.yml"
LAB = ROOT / "docker-compose.lab.yml"
PROXY = ROOT / "docker-compose.proxy.yml"
SCHEMA = jsonschema.Draft7Validator(json.loads((Path(__file__).parent / "compose" / "compose-spec.json").read_text()))


class Loader(yaml.SafeLoader):
    """Also knows Compose's tag for a list that replaces another file's."""


Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def compose(path=COMPOSE):
    return yaml.load(path.read_text(), Loader)


def dockerfile():
    """Its instructions, (name, rest) each, continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", "", text)
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def last(instruction):
    return [rest for name, rest in dockerfile() if name == instruction][-1]


def image_environment():
    return dict(pair.split("=", 1) for name, rest in dockerfile() if name == "ENV" for pair in shlex.split(rest))


def interpolated(value):
    """What Compose makes of ${NAME:-default} where nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


@pytest.mark.parametrize("path", [COMPOSE, LAB, PROXY], ids=lambda path: path.name)
def test_the_compose_file_keeps_the_published_schema(path):
    SCHEMA.validate(compose(path))


def test_the_schema_would_notice_a_mistake():
    wrong = compose()
    wrong["services"]["polysem"]["read_onyl"] = True
    with pytest.raises(jsonschema.ValidationError, match="read_onyl"):
        SCHEMA.validate(wrong)


def test_the_dockerfile_passes_its_linter():
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["polysem", "polysem-cuml", "polysem-cpu"])
def test_services_run_without_rights_that_they_do_not_need(name):
    service = compose()["services"][name]
    assert service["user"] == last("USER") == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_without_a_profile_a_gpu_is_wanted_and_on_plain_ubuntu_none():
    services = compose()["services"]
    for name, profiles in (("polysem", None), ("polysem-cuml", ["cuml"])):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert services[name].get("profiles") == profiles
    assert services["polysem-cpu"]["profiles"] == ["cpu"]
    assert "deploy" not in services["polysem-cpu"]


def test_each_image_installs_its_own_lock():
    default = dict(rest.split("=", 1) for name, rest in dockerfile() if name == "ARG")["LOCK"]
    own_images = {name: service for name, service in compose()["services"].items() if name.startswith("polysem")}
    builds = {name: service["build"] for name, service in own_images.items()}
    locks = {name: build["args"]["LOCK"] if isinstance(build, dict) else default for name, build in builds.items()}
    assert locks == {
        "polysem": "docker/requirements-cuda.txt",
        "polysem-cuml": "docker/requirements-cuml.txt",
        "polysem-cpu": "docker/requirements-cpu.txt",
    }
    assert len({service["image"] for service in own_images.values()}) == 3


@pytest.mark.parametrize(
    ("variant", "extras", "python"),
    [("cpu", ["server"], "3.11"), ("cuda", ["server"], "3.12"), ("cuml", ["server", "cuda"], "3.12")],
)
def test_a_lock_holds_all_that_the_project_needs_with_hashes_and_names_no_index(variant, extras, python):
    text = (ROOT / "docker" / f"requirements-{variant}.txt").read_text()
    assert "://" not in text
    assert re.findall(r"^-.*", text, flags=re.MULTILINE) == []
    pinned = {}
    for block in re.split(r"\n(?=[a-z])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)):
        requirement, *hashes = block.replace("\\\n", " ").split()
        name, version = requirement.split("==")
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", value) for value in hashes)
        pinned[canonicalize_name(name)] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    environment = {"python_version": python, "sys_platform": "linux"}
    for requirement in map(Requirement, [*wanted, "setuptools>=77"]):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    assert pinned["torch"].endswith("+cpu") == (variant == "cpu")


def test_all_that_is_written_lies_in_volumes():
    service = compose()["services"]["polysem"]
    mounted = {volume.rsplit("}", 1)[-1].split(":")[1] for volume in service["volumes"]}
    assert mounted == {"/models", "/indexes", "/cache", "/state", "/corpora"}
    written = {value for value in image_environment().values() if value.startswith("/") and "/bin" not in value}
    assert {f"/{path.split('/')[1]}" for path in written} <= mounted
    made = re.search(r"install --directory .*", " ".join(rest for name, rest in dockerfile() if name == "RUN"))
    assert mounted <= set(made[0].split())


def test_the_drain_is_over_before_the_container_is_killed():
    from polysem.server.settings import Settings

    grace = compose()["services"]["polysem"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings.model_fields["drain_s"].default


def test_every_setting_in_the_files_is_one_of_the_server():
    from polysem.server.settings import Settings

    of_commands = {"POLYSEM_CA", "POLYSEM_SERVER_NAME", "POLYSEM_CACHE_DIR"}
    known = {f"POLYSEM_{name.upper()}" for name in Settings.model_fields} | of_commands
    given = set(image_environment())
    for file in (compose(), compose(LAB), compose(PROXY)):
        for name, service in file["services"].items():
            given |= set(service["environment"]) if name.startswith("polysem") else set()
    assert {name for name in given if name.startswith("POLYSEM_")} <= known


def test_opened_to_the_lab_it_is_not_insecure():
    service = compose(LAB)["services"]["polysem"]
    assert service["environment"]["POLYSEM_INSECURE"] == "false"
    assert service["ports"][0] == "50051:50051"


def test_behind_the_proxy_keys_are_wanted_and_only_the_proxy_is_reached():
    services = compose(PROXY)["services"]
    assert services["polysem"]["environment"]["POLYSEM_REQUIRE_KEYS"] == "true"
    assert all(port.startswith("127.0.0.1:") for port in services["polysem"]["ports"])
    proxy = services["proxy"]
    assert (proxy["read_only"], proxy["cap_drop"]) == (True, ["ALL"])
    named = set(re.findall(r"POLYSEM_PROXY_\w+", (ROOT / "docker" / "haproxy.cfg").read_text()))
    assert set(proxy["environment"]) == named


RESTRICTED = """
set -eu
# A private view of this machine: the volumes are under /mnt, Python can be read by all, nothing else can be written.
prefix="$1"; closed="$2"; shift 2
mkdir -p /run/polysem-stash; mount --bind "$prefix" /run/polysem-stash
mkdir -p /run/polysem-code; mount --bind "$CODE_FOLDER" /run/polysem-code
sources=$(mktemp -d); mount --bind "$INDEX_FOLDER" "$sources"
mount -t tmpfs tmpfs /mnt
mkdir /mnt/models /mnt/indexes /mnt/corpora /mnt/cache /mnt/state
cp -r "$sources" /mnt/indexes/small; umount "$sources"; rmdir "$sources"
cp -r "$MODEL_FOLDER" /mnt/models/checkpoint
for folder in $KERNELS; do  # all but one need not be compiled again
  mkdir -p "/mnt/cache/numba/${folder#*=}"
  cp -p "${folder%=*}"/__pycache__/*.nb? "/mnt/cache/numba/${folder#*=}"
done
rm /mnt/cache/numba/*/gates.*
chown -R 10001:10001 /mnt
if [ -n "$closed" ]; then
  mount -t tmpfs -o mode=755 tmpfs "$closed"; mkdir -p "$prefix"; mount --bind /run/polysem-stash "$prefix"
fi
mount -o remount,ro,bind /
[ -z "$closed" ] || mount -o remount,ro,bind "$closed"
mount -t tmpfs -o mode=1777 tmpfs /tmp
case "$CODE_FOLDER" in /tmp/*)
  mkdir -p "$CODE_FOLDER"; mount --bind /run/polysem-code "$CODE_FOLDER"; mount -o remount,ro,bind "$CODE_FOLDER"
esac
"$BRING_UP_LOOPBACK" -c "$LOOPBACK"
cd /
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \\
  --inh-caps=-all --ambient-caps=-all --bounding-set=-all env -i "$@" bash -c '
  test ! -w / && test ! -w "$CODE" && test ! -w "$HOME" && ! touch "$CODE/x" 2>/dev/null || exit 90
  $COMMAND > /tmp/out 2>&1 &
  for i in $(seq 150); do
    if $HEALTH > /tmp/health 2>&1; then
      $ASK > /tmp/answer 2>&1 || { cat /tmp/answer; exit 91; }
      ls /mnt/cache; cut -c1-200 /tmp/answer
      kill -TERM $!; wait $!; exit $?
    fi
    kill -0 $! 2>/dev/null || break
    sleep 3  # each look is a Python of its own
  done
  cat /tmp/out /tmp/health; exit 92'
"""

LOOPBACK = """
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
"""


def may_restrict():
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount")):
        return False
    return (
        subprocess.run(["unshare", "--mount", "--net", "mount", "-o", "remount,ro,bind", "/"], check=False).returncode
        == 0
    )


@pytest.mark.skipif(not may_restrict(), reason="needs root, and namespaces of its own")
def test_the_containers_command_runs_as_another_user_on_a_read_only_root(index_folder, checkpoint):
    """In a network of its own, so the ports are the image's and 0.0.0.0 reaches nobody."""
    scripts = sysconfig.get_path("scripts")
    command = json.loads(last("ENTRYPOINT")) + json.loads(last("CMD"))
    service = compose()["services"]["polysem-cpu"]
    environment = image_environment() | {name: interpolated(value) for name, value in service["environment"].items()}
    environment = (
        {
            name: re.sub(r"^/(models|indexes|corpora|cache|state)", r"/mnt/\1", value)
            for name, value in environment.items()
        }
        | {
            "PATH": f"{scripts}:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "HF_HUB_OFFLINE": "1",
            "POLYSEM_INDEX": "/mnt/indexes/small",  # the two that a user would name in .env
            "POLYSEM_MODEL": "/mnt/models/checkpoint",
            "CODE": str(ROOT),
            "NUMBA_OPT": "0",  # a kernel is compiled anew; how fast it is is not asked
            "COMMAND": shlex.join(command),
            "HEALTH": shlex.join(service["healthcheck"]["test"][1:]),
            "ASK": "polysem cluster 0.0 --json",
        }
    )
    cached = UserProvidedCacheLocator.get_suitable_cache_subpath
    rooms = (polysem.kernels, polysem.kernels.large, polysem.server.indexing)
    compiled = [Path(room.__file__).parent for room in rooms]
    prefix = Path(sys.base_prefix).resolve()
    closed = [folder for folder in prefix.parents if not folder.stat().st_mode & 0o001]
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--net",
            "bash",
            "-c",
            RESTRICTED,
            "bash",
            str(prefix),
            str(closed[-1]) if closed else "",
        ]
        + [f"{name}={value}" for name, value in environment.items()],
        env=os.environ
        | {
            "INDEX_FOLDER": str(index_folder),
            "MODEL_FOLDER": str(checkpoint),
            "CODE_FOLDER": str(ROOT),
            "BRING_UP_LOOPBACK": str(prefix / "bin" / "python3"),
            "LOOPBACK": LOOPBACK,
            "KERNELS": " ".join(f"{folder}={cached(folder / 'any.py')}" for folder in compiled),
        },
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "numba" in done.stdout.split()
    assert '"neuron": "0.0"' in done.stdout
