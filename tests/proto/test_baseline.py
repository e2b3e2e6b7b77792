"""proto/baseline.binpb is what `buf breaking` holds the contract against: whatever has landed once must stay."""

from pathlib import Path

from google.protobuf import descriptor_pb2

from polysem.v1 import job_service_pb2, neuron_service_pb2, tensor_pb2

BASELINE = Path(__file__).parents[2] / "proto/baseline.binpb"


def test_the_baseline_holds_all_that_the_contract_has():
    files = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(BASELINE.read_bytes()).file}
    for module in (job_service_pb2, neuron_service_pb2, tensor_pb2):
        now = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(now)
        then = files[now.name]
        for message in then.message_type:
            for field in message.field:
                field.ClearField("json_name")  # buf writes what protoc leaves to the rule
        then.ClearField("source_code_info")
        then.DiscardUnknownFields()
        assert then == now, f"{now.name} has grown: `make baseline`, and commit"
