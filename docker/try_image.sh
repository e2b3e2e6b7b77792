#!/usr/bin/env bash
# Build the CPU image without a container engine, and use it as docs/run-it-for-a-lab.md says. Debian's buildah builds it, on a
# base that debootstrap makes. What runs in it has what docker-compose.yml gives to polysem-cpu: its user, no capabilities, a
# read-only root, volumes, a network of its own. Needs root on Debian, `apt-get install buildah debootstrap` and `make setup`.
# Everything goes to build/image, where the base, the wheels and Debian's packages are kept for the next time.
#
# PIP_ARGS             passed to pip: where a CPU build of torch comes from
# MAX_MB               the image must be smaller
# POLYSEM_NEEDS_IMAGE  1: fail, rather than say so, where the image cannot be built
set -euo pipefail
cd "$(dirname "$0")/.."

missing=
[ "$(id -u)" = 0 ] || missing+=" root,"
for tool in buildah debootstrap unshare nsenter; do command -v "$tool" > /dev/null || missing+=" $tool,"; done
[ -n "$missing" ] || unshare --mount --net true 2> /dev/null || missing=" the right to namespaces,"
if [ -n "$missing" ]; then
  echo "the image is not built here, for want of:${missing%,}"
  exit "${POLYSEM_NEEDS_IMAGE:-0}"
fi

lock=docker/requirements-cpu.txt python=.venv/bin/python work=$PWD/build/image
image=localhost/polysem:cpu base=localhost/polysem-base
buildah=(buildah --root "$work/storage" --runroot "$work/run")
container='' place='' server=''
step() { printf '== %4d s  %s\n' "$SECONDS" "$1"; }
end() {
  for process in $server $place; do kill "$process" 2> /dev/null && wait "$process" || true; done
  [ -z "$container" ] || "${buildah[@]}" rm "$container" > /dev/null || true
}
trap end EXIT
mkdir -p "$work/wheels" "$work/packages/partial"

step "the base"
if ! "${buildah[@]}" inspect --type image "$base" > /dev/null 2>&1; then
  rm -rf "$work/base"
  debootstrap --variant=minbase bookworm "$work/base" > "$work/debootstrap.log" || { tail "$work/debootstrap.log"; exit 1; }
  rm -rf "$work"/base/var/cache/apt/archives/*.deb
  container=$("${buildah[@]}" from scratch)
  "${buildah[@]}" add --quiet "$container" "$work/base" / > /dev/null
  "${buildah[@]}" commit --quiet "$container" "$base" > /dev/null
  "${buildah[@]}" rm "$container" > /dev/null
  container=''
  rm -rf "$work/base"
fi

step "what the lock names"
# shellcheck disable=SC2086
"$python" -m pip download --quiet ${PIP_ARGS:-} --require-hashes --no-deps --only-binary :all: --python-version 3.11 \
  --find-links "$work/wheels" --dest "$work/wheels" --requirement "$lock"

step "the image"
"${buildah[@]}" build --isolation chroot --format docker --layers=false --pull-never --tag "$image" \
  --volume "$work/wheels:/wheels:ro" --volume "$work/packages:/var/cache/apt/archives" \
  --build-arg BASE="$base" --build-arg LOCK="$lock" --build-arg PIP_ARGS="--no-index --find-links /wheels" \
  . > "$work/build.log" 2>&1 || { tail -30 "$work/build.log"; exit 1; }
container=$("${buildah[@]}" from --pull-never "$image")
root=$("${buildah[@]}" mount "$container")
mb=$(du -sm "$root" | cut -f1)
echo "the image has $mb MB"
[ "$mb" -lt "${MAX_MB:-2500}" ]

step "a place for it: a read-only root, volumes, a network of its own"
rm -rf "$work/volumes"
mkdir -p "$work"/volumes/{models,indexes,cache,state,corpora}
chown 10001:10001 "$work"/volumes/{models,indexes,cache,state}
# The root, the volumes, and a Python that brings up loopback.
# shellcheck disable=SC2016
unshare --mount --net bash -euc '
  mount --bind "$1" "$1"
  cd "$1"
  mount -t proc proc proc
  mount -t sysfs -o ro sys sys
  mount --rbind /dev dev
  mount -t tmpfs -o mode=1777 tmp tmp
  for volume in models indexes cache state corpora; do mount --bind "$2/$volume" "$volume"; done
  mount -o remount,ro,bind corpora
  mount -o remount,ro,bind "$1"
  "$3" -c "
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack(\"16sh14x\", b\"lo\", 0x41))  # SIOCSIFFLAGS: up and running
"
  exec chroot . sh -c "touch /tmp/ready; exec sleep infinity"' \
  place "$root" "$work/volumes" "$(realpath "$python")" &
place=$!
until [ -e "/proc/$place/root/tmp/ready" ]; do
  kill -0 "$place"
  sleep 0.1
done

# User, environment and commands are the image's own; what Compose adds is read from its file, with no variable set.
told() { "${buildah[@]}" inspect --type image --format "$1" "$image"; }
user=$(told '{{.Docker.Config.User}}')
mapfile -t environment < <(told '{{range .Docker.Config.Env}}{{println .}}{{end}}' | grep .)
read -ra serve <<< "$(told '{{range .Docker.Config.Entrypoint}}{{.}} {{end}}{{range .Docker.Config.Cmd}}{{.}} {{end}}')"
read -ra healthy <<< "$(told '{{range .Docker.Config.Healthcheck.Test}}{{.}} {{end}}')"
[ "$user ${healthy[*]}" = "10001:10001 CMD polysem health" ]
mapfile -t of_compose < <("$python" -c '
import re, sys, yaml
service = yaml.safe_load(open("docker-compose.yml"))["services"]["polysem-cpu"]
for name, value in service["environment"].items():
    print(f"{name}=" + re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)))')
environment+=("${of_compose[@]}" HOME=/nonexistent)

inside() {
  ${exec:-} nsenter --target "$place" --mount --net --root --wdns=/ setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups \
    --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all env -i "${environment[@]}" "$@"
}
client() { nsenter --net="/proc/$place/ns/net" env POLYSEM_SERVER=127.0.0.1:50051 .venv/bin/polysem "$@"; }
serving() {
  exec=exec inside "${serve[@]}" > "$work/server.log" 2>&1 &  # so that it is told to stop, and not a shell around it
  server=$!
  for _ in $(seq 200); do
    if inside "${healthy[@]:1}" > /dev/null 2>&1; then return; fi
    kill -0 "$server" 2> /dev/null || break
    sleep 8  # each look is a Python of its own, and kernels are being compiled
  done
  cat "$work/server.log"
  exit 1
}
stopped() {
  kill "$server"
  wait "$server"
  server=''
  "$python" -c 'import json, sys; [json.loads(line) for line in sys.stdin]' < "$work/server.log"
}
inside sh -euc '
  test "$(id -u):$(id -g)" = 10001:10001
  grep -q "^CapBnd:.0*$" /proc/self/status
  grep -q "^CapEff:.0*$" /proc/self/status
  grep -q "^NoNewPrivs:.1$" /proc/self/status
  for folder in / /etc /opt/polysem/bin /var/tmp /corpora; do if touch "$folder/mine" 2> /dev/null; then echo "$folder"; exit 1; fi; done
  for folder in /models /indexes /cache /state /tmp; do touch "$folder/mine"; rm "$folder/mine"; done'
if touch "/proc/$place/root/opt/polysem/mine" 2> /dev/null; then echo "root may write into the image"; exit 1; fi

step "an index and a key, as the docs have them"
printf '{"text": "the first text of a corpus"}\n%.0s' $(seq 40) > "$work/volumes/corpora/texts.jsonl"
inside polysem index --model demo --corpus /corpora/texts.jsonl --out /indexes/texts
POLYSEM_TOKEN=$(inside polysem keys create --owner ada | sed -n 's/^POLYSEM_TOKEN=//p')
export POLYSEM_TOKEN

step "its first start"
environment+=(POLYSEM_INDEX=/indexes/texts POLYSEM_REQUIRE_KEYS=true)  # as .env has them
serving
step "a client from outside"
client info
client cluster 1.0 --json | head -c 200
echo
job=$(client jobs submit measure '0.0-9' --json | "$python" -c 'import json, sys; print(json.load(sys.stdin)["id"])')
client jobs watch "$job"
if refused=$(POLYSEM_TOKEN='' client cluster 1.0 2>&1); then echo "it answers without a key"; exit 1; fi
echo "$refused"
nsenter --net="/proc/$place/ns/net" "$python" -c '
import urllib.request
assert b"polysem_calls_total" in urllib.request.urlopen("http://127.0.0.1:9464/metrics").read()'
stopped

step "a restart: what the volumes hold is there"
kernels=$(find "$work/volumes/cache" -type f | sort | sha256sum)
serving
client jobs fetch "$job" --out "$work/measured.parquet" --force
stopped
[ "$kernels" = "$(find "$work/volumes/cache" -type f | sort | sha256sum)" ]  # nothing was compiled again
step "all is well"
