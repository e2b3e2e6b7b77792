"""Jobs on a server, from either client: `client.jobs`.

job = polysem.jobs.measure("*")          # an id that works from anywhere, also after the server was restarted
for job in polysem.jobs.watch(job.id):
    print(job.state, job.stage, job.done, job.total)
polysem.jobs.fetch(job.id, "all.parquet")
"""

import asyncio
import gzip
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, cast

import grpc

from polysem.client import connection
from polysem.proto import jobs
from polysem.proto.checks import index_name
from polysem.proto.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, PolysemError, Unavailable
from polysem.proto.facts import Selection
from polysem.proto.jobs import (
    CHUNK_BYTES,
    CorpusInfo,
    IndexSpec,
    Job,
    JobSpec,
    MeasureSpec,
    decode_corpus,
    decode_job,
    encode_spec,
    with_units,
)
from polysem.proto.neurons import NeuronLike, parse_neurons
from polysem.proto.questions.clustering import Algorithm, Embedding, Frame, LayerNorm, Linkage
from polysem.proto.sides import Side
from polysem.v1 import job_service_pb2 as pb

RECONNECT_S = 120.0  # that a watcher waits for a server to come back
HEARTBEAT_S = 10.0


def measure_spec(
    neurons: Sequence[NeuronLike],
    algorithms: Sequence[Algorithm],
    embeddings: Sequence[Embedding],
    layer_norms: Sequence[LayerNorm],
    frames: Sequence[Frame],
    linkage: Linkage,
    distance_threshold: float,
    best_cut: bool,
    index: str | None,
    side: Side,
    n_null: int,
    seed: int,
) -> MeasureSpec:
    if not (algorithms and embeddings and layer_norms and frames):
        raise InvalidArgument(
            "nothing is to be measured: name an algorithm, an embedding, a LayerNorm mode and a frame"
        )
    return MeasureSpec(
        parse_neurons(*(neurons or ("*",))),
        index_name(index),
        tuple(algorithms),
        tuple(embeddings),
        tuple(layer_norms),
        linkage,
        distance_threshold,
        best_cut,
        side,
        frames=tuple(frames),
        n_null=n_null,
        seed=seed,
    )


def create_request(spec: JobSpec, request_id: str | None) -> pb.CreateJobRequest:
    """An id of its own makes the call safe to repeat."""
    return pb.CreateJobRequest(request_id=request_id or uuid.uuid4().hex, **encode_spec(spec))


class Upload:
    """A corpus file made ready to be sent: checked, unpacked where it is .gz, measured and hashed."""

    def __init__(self, path: Path, name: str | None, shared: bool = False) -> None:
        if path.is_dir():
            raise InvalidArgument(f"{str(path)!r} is a folder; upload one .jsonl, .jsonl.gz or .txt file")
        if not path.is_file():
            raise NotFound(f"there is no corpus {str(path)!r}")
        self._path, self._shared = path, shared
        self.name = name or path.name.removesuffix(".gz")
        jobs.check_corpus_name(self.name)
        digest, self.bytes = hashlib.sha256(), 0
        for chunk in self._chunks():
            digest.update(chunk)
            self.bytes += len(chunk)
        self.sha256 = digest.hexdigest()

    def requests(self, sent: Callable[[int], object]) -> Iterator[pb.UploadCorpusRequest]:
        """The messages; `sent` is told of the bytes of each."""
        header = pb.CorpusHeader(name=self.name, bytes=self.bytes, sha256=self.sha256, shared=self._shared)
        yield pb.UploadCorpusRequest(header=header)
        for chunk in self._chunks():
            yield pb.UploadCorpusRequest(chunk=chunk)
            sent(len(chunk))

    def _chunks(self) -> Iterator[bytes]:
        try:
            with self._open() as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except (OSError, EOFError) as error:
            raise FailedPrecondition(f"cannot read {str(self._path)!r}: {error}") from error

    def _open(self) -> IO[bytes]:
        if self._path.suffix == ".gz":
            return cast("IO[bytes]", gzip.open(self._path, "rb"))
        return self._path.open("rb")


class Download:
    """A job's result on its way to `out`: in `out`.ID.partial until it is whole, and going on from what is there.

    Raises FailedPrecondition where `out` exists (unless `force`), or the job has no result.
    """

    def __init__(self, job: Job, out: Path, force: bool) -> None:
        if job.state != "done":
            raise FailedPrecondition(
                f"job {job.id} has no result: it is {job.state}" + (f" ({job.error})" if job.error else "")
            )
        if out.is_dir() or (out.exists() and not force):
            raise FailedPrecondition(f"{str(out)!r} exists already; choose another name, or --force to replace it")
        self._job, self._out = job, out
        self._partial = out.with_name(f"{out.name}.{job.id}.partial")

    @contextmanager
    def receiving(self) -> Iterator["Download"]:
        """Keep what comes; on leaving, the whole result is checked and put in its place."""
        try:
            with self._partial.open("ab") as self._file:
                if self._file.tell() > self._job.result_bytes:
                    self._file.truncate(0)
                yield self
            self._finish()
        except PolysemError:  # some of which are OSErrors: the server is away, or the deadline has passed
            raise
        except OSError as error:
            raise FailedPrecondition(
                f"cannot write {str(self._out)!r}: {error.strerror}; what has come is kept in {str(self._partial)!r}"
            ) from error

    @property
    def request(self) -> pb.ReadJobResultRequest:
        """For what is missing."""
        self._file.flush()
        return pb.ReadJobResultRequest(id=self._job.id, offset=self._file.tell())

    def add(self, message: pb.ReadJobResultResponse) -> int:
        """The bytes that came."""
        if message.offset != self._file.tell():
            raise Internal(f"the server sent byte {message.offset} of the result where {self._file.tell()} was due")
        return self._file.write(message.chunk)

    def _finish(self) -> None:
        with self._partial.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != self._job.result_sha256:
            self._partial.unlink()
            raise Internal(
                f"the result of job {self._job.id} came with the sha256 {sha256}, not {self._job.result_sha256}; "
                "nothing was kept: fetch it again"
            )
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        self._partial.replace(self._out)


class Jobs:
    """The jobs of a client's server. Raises as the client does. stub: gives the open stub, or raises."""

    def __init__(self, stub: Callable[[], Any], target: str, timeout_s: float | None) -> None:
        self._stub, self._target, self._timeout_s = stub, target, timeout_s

    def measure(
        self,
        *neurons: NeuronLike,
        algorithms: Sequence[Algorithm] = ("hac", "scc"),
        embeddings: Sequence[Embedding] = ("neuron", "pre_mlp"),
        layer_norms: Sequence[LayerNorm] = ("folded",),
        frames: Sequence[Frame] = ("raw",),
        linkage: Linkage = "average",
        distance_threshold: float = 0.5,
        best_cut: bool = True,
        index: str | None = None,
        side: Side = "positive",
        n_null: int = 0,
        seed: int = 0,
        request_id: str | None = None,
    ) -> Job:
        """Measure the neurons (none named: all) by each algorithm on each embedding in each mode and frame.

        best_cut    also look for the cut with the best silhouette
        side        of the activations
        n_null      rotations that each neuron is compared with, in rows of hac: see `Client.cluster`; 0: none
        seed        of rotations and controls, 0 to 2⁶³ - 1
        request_id  of your own, the same when you ask again: then the first job is given back

        The result is the Parquet file of `polysem measure`.
        """
        spec = measure_spec(
            neurons, algorithms, embeddings, layer_norms, frames, linkage, distance_threshold, best_cut, index, side,
            n_null, seed,
        )  # fmt: skip
        return self._create(spec, request_id)

    def index(
        self,
        name: str,
        corpus: str,
        *,
        selection: Selection = Selection(),
        context_length: int | None = None,
        windows: Literal["first", "all"] = "first",
        bos: bool | None = None,
        max_documents: int | None = None,
        text_field: str = "text",
        skip_bad_documents: bool = False,
        sides: Literal["positive", "both"] | None = None,
        layers: Sequence[int] = (),
        skip_positions: int = 0,
        negatives: int | None = None,
        shared: bool = False,
        units: str | None = None,
        request_id: str | None = None,
    ) -> Job:
        """Make an index of a corpus that the server has (see `corpora`), with the server's model.

        bos             begin each window with BOS; None: as the model does
        sides           None: both for gated models, positive for others
        layers          to keep; none: all of the model's
        skip_positions  tokens at each window's start, after BOS, that are never key tokens
        units           sae:NAME, an SAE that the server's operator has allowed: its latents; None: neurons
        negatives       per neuron and kind at most, to score names by; None: 32, within a fifth of the index

        Once the job is done, requests of your key may say `index=name`; shared: those of every key. Its result is the
        index's manifest.
        """
        spec = IndexSpec(
            name, corpus, selection, context_length or 0, windows, bos, max_documents or 0, text_field,
            skip_bad_documents, sides or "", tuple(layers), skip_positions, shared, units or "", negatives,
        )  # fmt: skip
        return with_units(self._create(spec, request_id), spec)

    def _create(self, spec: JobSpec, request_id: str | None) -> Job:
        return decode_job(self._call("CreateJob", create_request(spec, request_id)).job)

    def get(self, id: str) -> Job:  # noqa: A002
        """The job as it is now."""
        return decode_job(self._call("GetJob", pb.GetJobRequest(id=id)).job)

    def list(self) -> Iterator[Job]:
        """All jobs, latest first, asked for as they are read."""
        token = ""
        while True:
            page = self._call("ListJobs", pb.ListJobsRequest(page_token=token))
            yield from map(decode_job, page.jobs)
            if not (token := page.next_page_token):
                return

    def cancel(self, id: str) -> Job:  # noqa: A002
        """Stop the job, unless it has finished; what it made is removed."""
        return decode_job(self._call("CancelJob", pb.CancelJobRequest(id=id)).job)

    def delete(self, id: str) -> None:  # noqa: A002
        """Forget a finished job and remove its result, an index too."""
        self._call("DeleteJob", pb.DeleteJobRequest(id=id))

    def watch(self, id: str, *, heartbeat_s: float = HEARTBEAT_S) -> Iterator[Job]:  # noqa: A002
        """The job now and at every change, and unchanged every `heartbeat_s` seconds; ends with the job.

        Goes on watching where the server is restarted and back within two minutes.
        """
        request = pb.WatchJobRequest(id=id, heartbeat_s=heartbeat_s)
        lost = None
        while True:
            try:
                for message in self._stub().WatchJob(request, timeout=self._timeout_s):
                    lost = None
                    job = decode_job(message.job)
                    yield job
                    if job.finished:
                        return
            except grpc.RpcError as rpc_error:
                error = connection.translated(rpc_error, self._target, self._stub)
                lost = lost or time.monotonic()
                if not isinstance(error, Unavailable) or time.monotonic() - lost > RECONNECT_S:
                    raise error from None
            time.sleep(0.5)

    def fetch(
        self,
        id: str,  # noqa: A002
        out: str | Path,
        *,
        force: bool = False,
        progress: Callable[[int], object] = lambda n_bytes: None,
    ) -> Path:
        """Write the result of a done job to `out`, and check its sha256; goes on where a fetch was broken off."""
        download = Download(self.get(id), Path(out), force)
        with download.receiving(), self._translated():
            for message in self._stub().ReadJobResult(download.request, timeout=self._timeout_s):
                progress(download.add(message))
        return Path(out)

    def upload(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        shared: bool = False,
        sent: Callable[[int], object] = lambda n_bytes: None,
    ) -> CorpusInfo:
        """Keep a corpus (.jsonl, .jsonl.gz or .txt) on the server under its file's name, for jobs to index.

        It is your key's alone; shared: jobs of every key may index it.
        """
        upload = Upload(Path(path), name, shared)
        return decode_corpus(self._call("UploadCorpus", upload.requests(sent)).corpus)

    def corpora(self) -> Sequence[CorpusInfo]:
        """The corpora that `index` can name, by name."""
        return [*map(decode_corpus, self._call("ListCorpora", pb.ListCorporaRequest()).corpora)]

    def delete_corpus(self, name: str) -> None:
        """Remove an uploaded corpus."""
        self._call("DeleteCorpus", pb.DeleteCorpusRequest(name=name))

    def _call(self, method: str, request: Any) -> Any:
        with self._translated():
            return connection.ask(getattr(self._stub(), method), request, self._target, self._timeout_s)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise connection.translated(error, self._target, self._stub) from None


class AsyncJobs:
    """The methods of `Jobs`, whose docstrings hold here, to be awaited."""

    def __init__(self, stub: Callable[[], Any], target: str, timeout_s: float | None) -> None:
        self._stub, self._target, self._timeout_s = stub, target, timeout_s

    async def measure(
        self,
        *neurons: NeuronLike,
        algorithms: Sequence[Algorithm] = ("hac", "scc"),
        embeddings: Sequence[Embedding] = ("neuron", "pre_mlp"),
        layer_norms: Sequence[LayerNorm] = ("folded",),
        frames: Sequence[Frame] = ("raw",),
        linkage: Linkage = "average",
        distance_threshold: float = 0.5,
        best_cut: bool = True,
        index: str | None = None,
        side: Side = "positive",
        n_null: int = 0,
        seed: int = 0,
        request_id: str | None = None,
    ) -> Job:
        spec = measure_spec(
            neurons, algorithms, embeddings, layer_norms, frames, linkage, distance_threshold, best_cut, index, side,
            n_null, seed,
        )  # fmt: skip
        return await self._create(spec, request_id)

    async def index(
        self,
        name: str,
        corpus: str,
        *,
        selection: Selection = Selection(),
        context_length: int | None = None,
        windows: Literal["first", "all"] = "first",
        bos: bool | None = None,
        max_documents: int | None = None,
        text_field: str = "text",
        skip_bad_documents: bool = False,
        sides: Literal["positive", "both"] | None = None,
        layers: Sequence[int] = (),
        skip_positions: int = 0,
        negatives: int | None = None,
        shared: bool = False,
        units: str | None = None,
        request_id: str | None = None,
    ) -> Job:
        spec = IndexSpec(
            name, corpus, selection, context_length or 0, windows, bos, max_documents or 0, text_field,
            skip_bad_documents, sides or "", tuple(layers), skip_positions, shared, units or "", negatives,
        )  # fmt: skip
        return with_units(await self._create(spec, request_id), spec)

    async def _create(self, spec: JobSpec, request_id: str | None) -> Job:
        return decode_job((await self._call("CreateJob", create_request(spec, request_id))).job)

    async def get(self, id: str) -> Job:  # noqa: A002
        return decode_job((await self._call("GetJob", pb.GetJobRequest(id=id))).job)

    async def list(self) -> AsyncIterator[Job]:
        token = ""
        while True:
            page = await self._call("ListJobs", pb.ListJobsRequest(page_token=token))
            for message in page.jobs:
                yield decode_job(message)
            if not (token := page.next_page_token):
                return

    async def cancel(self, id: str) -> Job:  # noqa: A002
        return decode_job((await self._call("CancelJob", pb.CancelJobRequest(id=id))).job)

    async def delete(self, id: str) -> None:  # noqa: A002
        await self._call("DeleteJob", pb.DeleteJobRequest(id=id))

    async def watch(self, id: str, *, heartbeat_s: float = HEARTBEAT_S) -> AsyncIterator[Job]:  # noqa: A002
        request = pb.WatchJobRequest(id=id, heartbeat_s=heartbeat_s)
        lost = None
        while True:
            try:
                async for message in self._stub().WatchJob(request, timeout=self._timeout_s):
                    lost = None
                    job = decode_job(message.job)
                    yield job
                    if job.finished:
                        return
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as rpc_error:
                error = connection.translated(rpc_error, self._target, self._stub)
                lost = lost or time.monotonic()
                if not isinstance(error, Unavailable) or time.monotonic() - lost > RECONNECT_S:
                    raise error from None
            await asyncio.sleep(0.5)

    async def fetch(
        self,
        id: str,  # noqa: A002
        out: str | Path,
        *,
        force: bool = False,
        progress: Callable[[int], object] = lambda n_bytes: None,
    ) -> Path:
        download = Download(await self.get(id), Path(out), force)
        with download.receiving(), self._translated():
            async for message in self._stub().ReadJobResult(download.request, timeout=self._timeout_s):
                progress(download.add(message))
        return Path(out)

    async def upload(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        shared: bool = False,
        sent: Callable[[int], object] = lambda n_bytes: None,
    ) -> CorpusInfo:
        upload = await asyncio.to_thread(Upload, Path(path), name, shared)
        return decode_corpus((await self._call("UploadCorpus", upload.requests(sent))).corpus)

    async def corpora(self) -> Sequence[CorpusInfo]:
        return [*map(decode_corpus, (await self._call("ListCorpora", pb.ListCorporaRequest())).corpora)]

    async def delete_corpus(self, name: str) -> None:
        await self._call("DeleteCorpus", pb.DeleteCorpusRequest(name=name))

    async def _call(self, method: str, request: Any) -> Any:
        with self._translated():
            return await connection.aio_ask(getattr(self._stub(), method), request, self._target, self._timeout_s)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            raise connection.translated(error, self._target, self._stub) from None
