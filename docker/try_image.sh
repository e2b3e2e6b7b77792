#!/usr/bin/env bash
# Build the CPU image without a container engine, and use it as docs/run-it-for-a-lab.md says: Debian's buildah, on a base
# that debootstrap makes. As root on Debian (apt-get install buildah debootstrap); everything goes to build/image.
#
# LOCK          what is installed, with hashes; docker/requirements-cpu.txt
# PIP_ARGS      passed to pip in the build: where a CPU build of torch comes from
# BUILDAH_ARGS  passed to `buildah build`: what the build needs of this machine, such as volumes
# MAX_MB        the image must be smaller
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/build/image
mkdir -p "$work"
image=localhost/polysem:cpu base=localhost/polysem-base
buildah=(buildah --root "$work/storage" --runroot "$work/run")
containers=()
step() { printf '== %4d s  %s\n' "$SECONDS" "$1"; }
end() {
  [ -z "${server:-}" ] || kill "$server" 2> /dev/null || true
  for container in "${containers[@]}"; do "${buildah[@]}" rm "$container" > /dev/null || true; done
}
trap end EXIT

step "the base"
if ! "${buildah[@]}" inspect --type image "$base" > /dev/null 2>&1; then
  rm -rf "$work/base"
  debootstrap --variant=minbase bookworm "$work/base" > "$work/debootstrap.log"
  container=$("${buildah[@]}" from scratch)
  containers+=("$container")
  "${buildah[@]}" add --quiet "$container" "$work/base" / > /dev/null
  "${buildah[@]}" commit --quiet "$container" "$base" > /dev/null
  rm -rf "$work/base"
fi

# What pip is told here (a certificate, where wheels lie) it is told in the build, too; nothing of it stays in the image.
pip=("${PIP:-.venv/bin/pip}" config get)
told=()
rm -rf "$work/pip" && mkdir -p "$work/pip"
echo "[global]" > "$work/pip/pip.conf"
cert=${PIP_CERT:-$("${pip[@]}" global.cert 2> /dev/null || true)}
if [ -n "$cert" ]; then
  cp "$cert" "$work/pip/cert.pem"
  echo "cert = /etc/pip/cert.pem" >> "$work/pip/pip.conf"
fi
if links=$("${pip[@]}" global.find-links 2> /dev/null) && [ -d "$links" ]; then
  echo "find-links = $links" >> "$work/pip/pip.conf"
  told+=(--volume "$links:$links:ro")
fi
told+=(--volume "$work/pip:/etc/pip:ro" --volume "$work/pip/pip.conf:/etc/pip.conf:ro")

step "the image"
# shellcheck disable=SC2086
"${buildah[@]}" build --isolation chroot --format docker --layers=false --pull-never \
  --build-arg BASE="$base" --build-arg LOCK="${LOCK:-docker/requirements-cpu.txt}" --build-arg PIP_ARGS="${PIP_ARGS:-}" "${told[@]}" ${BUILDAH_ARGS:-} \
  --tag "$image" . > "$work/build.log" 2>&1 || { tail -30 "$work/build.log"; exit 1; }
"${buildah[@]}" inspect --type image --format '{{.Docker.Config.Healthcheck.Test}} {{.Docker.Config.User}}' "$image" |
  grep -F '[CMD polysem health] 10001:10001'

step "a server in it: its user, no capabilities, volumes of this machine"
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
volumes=()
for volume in models indexes cache state corpora; do
  mkdir -p "$work/volumes/$volume"
  volumes+=(--volume "$work/volumes/$volume:/$volume")
done
chown -R 10001:10001 "$work/volumes"
container=$("${buildah[@]}" from --pull-never "$image")
containers+=("$container")
mounted=$("${buildah[@]}" mount "$container")
mb=$(du -sm "$mounted" | cut -f1)
echo "the image has $mb MB"
[ "$mb" -lt "${MAX_MB:-2500}" ]
inside() {
  "${buildah[@]}" run --isolation chroot --user 10001:10001 --cap-drop all "${volumes[@]}" \
    --env POLYSEM_HOST=127.0.0.1 --env POLYSEM_PORT="$port" --env POLYSEM_DEVICE=cpu \
    --env POLYSEM_SERVER="127.0.0.1:$port" "$container" -- "$@"
}
serving() {
  inside sh -c 'echo $$ > /state/pid; exec polysem serve "$@"' serve "$@" > "$work/server.log" 2>&1 &
  server=$!
  for _ in $(seq 600); do
    if inside polysem health > /dev/null 2>&1; then step "it serves"; return; fi
    kill -0 "$server" 2> /dev/null || { cat "$work/server.log"; exit 1; }
    sleep 1
  done
  cat "$work/server.log"
  exit 1
}
stopped() {
  kill "$(cat "$work/volumes/state/pid")"
  wait "$server" || true
  server=
}
inside id | grep uid=10001
inside sh -c 'grep -q "^CapEff:.0*$" /proc/self/status'
if inside touch /opt/polysem/bin/mine 2> /dev/null; then echo "its user may write into the image"; exit 1; fi

step "an index and a key, as the docs have them"
printf '{"text": "the first text of a corpus"}\n%.0s' $(seq 40) > "$work/volumes/corpora/texts.jsonl"
inside polysem index --model demo --corpus /corpora/texts.jsonl --out /indexes/texts
token=$(inside polysem keys create --owner ada | sed -n 's/^POLYSEM_TOKEN=//p')

client=(env POLYSEM_SERVER="127.0.0.1:$port" POLYSEM_TOKEN="$token" "${POLYSEM:-.venv/bin/polysem}")
serving --index /indexes/texts --require-keys
"${client[@]}" info
"${client[@]}" cluster 1.0 --json | head -c 200
job=$("${client[@]}" jobs submit measure '0.0-9' --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
"${client[@]}" jobs watch "$job"
if env POLYSEM_SERVER="127.0.0.1:$port" POLYSEM_TOKEN= "${POLYSEM:-.venv/bin/polysem}" cluster 1.0 2> /dev/null; then exit 1; fi
stopped

step "again: what the volumes hold is there"
serving --index /indexes/texts --require-keys
rm -f "$work/measured.parquet"
"${client[@]}" jobs fetch "$job" --out "$work/measured.parquet"
stopped
step "all is well"
