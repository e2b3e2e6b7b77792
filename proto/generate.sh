#!/usr/bin/env bash
# Writes the committed stubs beside the protos, or into the folder named. The generator (grpcio-tools) is pinned to the
# oldest runtime that we support.
set -eu
cd "$(dirname "$0")/.."
out="${1:-proto}"
"${PYTHON:-python}" -m grpc_tools.protoc -Iproto --python_out="$out" --pyi_out="$out" proto/polysem/v1/*.proto
"${PYTHON:-python}" -m grpc_tools.protoc -Iproto --grpc_python_out="$out" proto/polysem/v1/*_service.proto
