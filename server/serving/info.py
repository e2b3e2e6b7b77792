"""Facts that a server gives about itself."""

from polysem.proto.facts import Limits, ServerInfo
from polysem.proto.questions.clustering import MAX_NEIGHBOURS, MAX_THRESHOLDS
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.server.model.devices import device_name
from polysem.server.questions.engine import MAX_NEURONS_PER_REQUEST, Engine
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.callers import Caller


def server_info(engine: Engine, batcher: Batcher, caller: Caller) -> ServerInfo:
    model = engine.model
    limits = Limits(
        max_message_bytes=MAX_MESSAGE_BYTES,
        max_neurons_per_request=MAX_NEURONS_PER_REQUEST,
        max_thresholds=MAX_THRESHOLDS,
        max_requests_in_flight=batcher.max_requests,
        max_batch_cost=batcher.max_batch_cost,
        max_queued_cost=batcher.max_queued_cost,
        max_wait_ms=batcher.max_wait_ms,
        bulk_batch_ms=batcher.bulk_batch_ms,
        max_requests_in_flight_of_key=caller.max_in_flight or 0,
        daily_cost_quota=caller.account.daily_quota or 0.0,
        max_neighbours=MAX_NEIGHBOURS,
    )
    return ServerInfo(
        engine.version,
        model.info,
        ", ".join(device_name(copy.device) for copy in (model, *engine.copies)),
        model.dtype,
        engine.default_index,
        limits,
        engine.neighbour_library,
        model.tokenizer.bos_id,
    )
