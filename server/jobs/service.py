"""The gRPC service of jobs: decode, delegate, encode. What waits for the disk does so beside the event loop."""

import asyncio
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

from google.protobuf.message import DecodeError

from polysem.proto.errors import FailedPrecondition, InvalidArgument, PolysemError, Unavailable
from polysem.proto.jobs import CHUNK_BYTES, CorpusInfo, decode_spec, encode_corpora, encode_job
from polysem.server.jobs.runner import JobRunner
from polysem.server.jobs.saes import Saes
from polysem.server.jobs.store import JobStore, StoreLimits
from polysem.server.jobs.uploads import Corpora
from polysem.server.jobs.watching import Watches
from polysem.server.questions.engine import Engine
from polysem.server.ray_cluster.pool import RayOptions
from polysem.server.serving import callers
from polysem.server.serving.aside import Aside
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.keys import Keys
from polysem.server.serving.malformed import Context
from polysem.server.serving.shortage import Redaction, is_full, shortage
from polysem.server.settings import Settings
from polysem.v1 import job_service_pb2 as pb
from polysem.v1 import job_service_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

CANCEL_LOOK_S = 0.025
CANCEL_S = 2.0  # that a running job is given to end before its caller is answered


class Jobs:
    """All that the service needs. `draining`: watchers are to come back later."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        engine: Engine,
        batcher: Batcher,
        keys: Keys | None,
        redaction: Redaction,
    ) -> None:
        limits = StoreLimits(
            settings.max_jobs,
            settings.max_result_bytes,
            settings.max_upload_bytes,
            settings.result_days * 86_400,
            settings.min_free_bytes,
            settings.key_share,
        )
        self.store = JobStore(folder, limits)
        self.corpora = Corpora(self.store, [Path(os.path.expanduser(path)) for path in settings.corpora])
        saes = Saes(settings.saes)
        self.runner = JobRunner(self.store, self.corpora, engine, batcher, keys, _ray(settings), redaction, saes)
        self.watches = Watches(self._version, lambda id_: encode_job(self.runner.seen(self.store.get(id_))))
        self.draining = False
        self.runner.start()

    def _version(self) -> object:
        """Another whenever something of a job has changed. Raises Unavailable while the server drains."""
        if self.draining:
            raise Unavailable("the server is stopping; its jobs go on when it starts again: watch again then")
        return self.store.changes, self.runner.progress

    async def drain(self) -> None:
        """Let watchers go and stop the job at work, which goes on when a server starts here again."""
        self.draining = True
        await self.runner.stop()

    def delete(self, id_: str, scope: str) -> None:
        """Forget a finished job and remove what it made; first of all its files, where there is no room to note it."""
        try:
            self.store.delete(id_, scope)
        except sqlite3.Error as error:
            if not is_full(error):
                raise
            shutil.rmtree(self.store.job_folder(id_), ignore_errors=True)
            self.store.delete(id_, scope)
        self.runner.tidy()

    def close(self) -> None:
        """After the last call."""
        self.store.close()


def _ray(settings: Settings) -> RayOptions | None:
    """Settings of the cluster that jobs use, if any."""
    if settings.executor == "local":
        return None
    options = RayOptions(settings.ray_address, settings.ray_gpus, settings.ray_workers, settings.ray_wait_s)
    options.check()
    return options


def open_jobs(
    settings: Settings, folder: Path, engine: Engine, batcher: Batcher, keys: Keys | None, redaction: Redaction
) -> Jobs | str:
    """The jobs of this server, begun; or why it has none: its disk is full, or the usual state folder cannot be.

    Raises FailedPrecondition for a state folder that was set.
    """
    try:
        return Jobs(settings, folder, engine, batcher, keys, redaction)
    except PolysemError as error:
        if settings.state is not None and not shortage(error):
            raise
        reason = f"this server takes no jobs: {error.message}"
        log.warning(reason)
        return reason


class JobService(pb_grpc.JobServiceServicer):
    """See proto/polysem/v1/job_service.proto. Without jobs, every call is told why. A job is its key's alone."""

    def __init__(self, jobs: Jobs | str) -> None:
        self._found = jobs
        self._aside = Aside()

    @property
    def _jobs(self) -> Jobs:
        if isinstance(self._found, str):
            raise FailedPrecondition(self._found)
        return self._found

    async def UploadCorpus(
        self, requests: AsyncIterator[pb.UploadCorpusRequest], context: Context
    ) -> pb.UploadCorpusResponse:
        try:
            first = await anext(requests, None)
            if first is None or first.WhichOneof("part") != "header":
                raise InvalidArgument("an upload begins with its header", "header")
            header = first.header
            found = await self._jobs.corpora.receive(
                callers.current.get(), header.name, header.bytes, header.sha256, header.shared, _chunks(requests)
            )
        except DecodeError as error:  # gRPC reads a stream's messages while they are asked for
            raise InvalidArgument(f"a message of the upload cannot be read: {error}") from error
        return pb.UploadCorpusResponse(corpus=_one(found))

    async def ListCorpora(self, request: pb.ListCorporaRequest, context: Context) -> pb.ListCorporaResponse:
        return pb.ListCorporaResponse(corpora=encode_corpora(self._jobs.corpora.list(callers.current.get())))

    async def DeleteCorpus(self, request: pb.DeleteCorpusRequest, context: Context) -> pb.DeleteCorpusResponse:
        await asyncio.to_thread(self._jobs.corpora.delete, request.name, callers.current.get())
        return pb.DeleteCorpusResponse()

    async def CreateJob(self, request: pb.CreateJobRequest, context: Context) -> pb.CreateJobResponse:
        jobs, caller = self._jobs, callers.current.get()
        asked = await self._aside.made(request, lambda: decode_spec(request))
        job = jobs.store.made(request.request_id, asked, caller.key)
        if job is None:
            spec, corpus = jobs.runner.check(asked, caller)
            job = await asyncio.to_thread(
                jobs.store.create, asked, spec, request.request_id, jobs.runner.batch_tokens, caller.key, corpus
            )
            jobs.runner.wake()
        return pb.CreateJobResponse(job=encode_job(jobs.runner.seen(job)))

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=self._now(request.id))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        page = self._jobs.store.page
        jobs, token = await asyncio.to_thread(page, request.page_size, request.page_token, _scope())
        seen = [encode_job(self._jobs.runner.seen(job)) for job in jobs]
        return pb.ListJobsResponse(jobs=seen, next_page_token=token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        jobs = self._jobs
        job = await asyncio.to_thread(jobs.store.cancel, request.id, _scope())
        jobs.runner.cancel(job.id)
        until = time.monotonic() + CANCEL_S
        while not job.finished and time.monotonic() < until:
            await asyncio.sleep(CANCEL_LOOK_S)
            job = jobs.store.get(job.id)
        return pb.CancelJobResponse(job=encode_job(jobs.runner.seen(job)))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Context) -> pb.DeleteJobResponse:
        await asyncio.to_thread(self._jobs.delete, request.id, _scope())
        return pb.DeleteJobResponse()

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[bytes]:
        jobs, heartbeat_s = self._jobs, request.heartbeat_s or 10.0
        if not 0.1 <= heartbeat_s <= 60:
            raise InvalidArgument(f"heartbeat_s is {heartbeat_s:g}; give 0.1 to 60", "heartbeat_s")
        jobs.store.get(request.id, _scope())
        async for message in jobs.watches.messages(request.id, heartbeat_s):
            yield message

    async def ReadJobResult(
        self, request: pb.ReadJobResultRequest, context: Context
    ) -> AsyncIterator[pb.ReadJobResultResponse]:
        path = self._jobs.store.result(request.id, _scope())
        length = path.stat().st_size
        if request.offset > length:
            raise InvalidArgument(f"offset is {request.offset}, but the result has {length} bytes", "offset")
        with path.open("rb") as file:
            file.seek(request.offset)
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield pb.ReadJobResultResponse(offset=file.tell() - len(chunk), chunk=chunk)

    def _now(self, id_: str) -> pb.Job:
        jobs = self._jobs
        return encode_job(jobs.runner.seen(jobs.store.get(id_, _scope())))


def _scope() -> str:
    """Whose jobs the caller may see and end."""
    return callers.current.get().scope


def _one(corpus: CorpusInfo) -> pb.Corpus:
    return encode_corpora([corpus])[0]


async def _chunks(requests: AsyncIterator[pb.UploadCorpusRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgument("after its header an upload holds chunks only", "chunk")
        yield request.chunk
