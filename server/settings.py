"""Settings of `polysem serve`: flags, then POLYSEM_… in the environment, then a TOML file, then the defaults."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from polysem.proto.errors import InvalidArgument


class Settings(BaseSettings):
    """One server. The names are those of the flags, and of the environment after POLYSEM_."""

    model_config = SettingsConfigDict(env_prefix="POLYSEM_", env_ignore_empty=True, extra="forbid")

    index: Annotated[list[Path], NoDecode] = Field(
        default=[], description="index folders, the first is the default; in the environment separated by ':'"
    )
    measurements: Annotated[list[Path], NoDecode] = Field(
        default=[],
        description="files of `polysem measure --null` whose tests listings show; in the environment separated by ':'",
    )
    model: str | None = Field(default=None, description="the indexes' model, where it is no longer at its place")
    units: str = Field(default="", description="sae:FOLDER of an index's latents, where it is no longer at its place")
    host: str = Field(default="127.0.0.1", description="address to listen on, or unix:/path of a socket")
    port: int = Field(default=50051, ge=0, le=65535, description="port to listen on; 0: any free one")
    insecure: bool = Field(default=False, description="listen on other addresses than loopback, without TLS or keys")
    require_keys: bool | None = Field(default=None, description="default: where other machines reach the address")
    tls_cert: Path | None = Field(default=None, description="PEM certificate and chain; read anew when it changes")
    tls_key: Path | None = Field(default=None, description="PEM private key of the certificate")
    state: Path | None = Field(
        default=None,
        description="folder of keys, audit log, jobs, uploads and results, on a local disk; default: the user's state",
    )
    audit_log: Path | None = Field(default=None, description="JSON lines, one a call; default with keys: in the state")
    audit_max_bytes: int = Field(default=100 << 20, ge=1 << 16, description="of all audit files; the oldest go first")
    audit_days: float = Field(default=90.0, gt=0, description="how long audit files are kept")
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="Prometheus reads it; default: no metrics"
    )
    metrics_host: str = Field(default="127.0.0.1", description="address of the metrics")
    log_format: Literal["text", "json"] = Field(default="text", description="of what goes to stderr")
    device: str = Field(
        default="auto",
        description="cpu, cuda, cuda:N, or auto; several (cuda:0,cuda:1) get a copy of the model each",
    )
    split_layers: str | None = Field(
        default=None, description="devices over which the model's layers are spread, such as cuda:0,cuda:1"
    )
    dtype: Literal["float32", "tf32", "bfloat16"] = Field(default="float32", description="of the model's arithmetic")
    neighbour_library: Literal["auto", "cuml", "scikit-learn", "torch"] = Field(
        default="auto",
        description="what searches nearest neighbours; auto: torch, but on a GPU cuML, if it is installed and an index "
        "has neurons of more than 4,096 examples",
    )
    max_batch_cost: float | None = Field(
        default=None,
        gt=0,
        description="n_examples² · d_model of one batch on the device; default: 9.5e8, 3e10 on a GPU",
    )
    max_wait_ms: float = Field(default=0.0, ge=0, le=1000, description="that a batch which is not full waits")
    bulk_batch_ms: float = Field(default=20.0, gt=0, le=10_000, description="what a batch of bulk work should take")
    max_requests_in_flight: int = Field(default=1024, ge=1, description="further ones are refused")
    max_queued_cost: float | None = Field(
        default=None, gt=0, description="n_examples² · d_model of work not yet begun; default: 10,000 batches"
    )
    drain_s: float = Field(default=30.0, ge=0, description="seconds that requests in flight get when the server stops")
    corpora: Annotated[list[Path], NoDecode] = Field(
        default=[], description="corpora that jobs may index, by file name; in the environment separated by ':'"
    )
    saes: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="SAEs whose latents jobs may index, by folder name: folders or hub names; in the environment "
        "separated by ':'",
    )
    max_jobs: int = Field(default=100, ge=1, description="unfinished jobs; further ones are refused")
    max_result_bytes: int = Field(default=50 << 30, ge=1, description="of all kept results, indexes too")
    max_upload_bytes: int = Field(default=10 << 30, ge=0, description="of all uploaded corpora together")
    key_share: float = Field(
        default=0.5, gt=0, le=1, description="of max_jobs, max_result_bytes and max_upload_bytes that one key may have"
    )
    min_free_bytes: int = Field(
        default=256 << 20, ge=0, description="of the state folder's disk, that jobs and uploads leave free"
    )
    executor: Literal["local", "ray"] = Field(
        default="local", description="where jobs are done: in this process, or by workers of a Ray cluster"
    )
    ray_address: str = Field(default="auto", description="the cluster that this machine is part of, local, HOST:PORT")
    ray_gpus: float | None = Field(default=None, ge=0, description="of a worker; default: 1 where there are any")
    ray_workers: int | None = Field(default=None, ge=1, description="default: as many as the cluster has room for")
    ray_wait_s: float = Field(default=300.0, gt=0, description="seconds until a worker must be there")
    result_days: float = Field(default=30.0, gt=0, description="how long results and uploads are kept")

    @field_validator("index", "measurements", "corpora", "saes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.split(os.pathsep) if isinstance(value, str) else value


def read(config: Path | None = None, **flags: Any) -> Settings:
    """The settings in force; a flag that is None was not given. `config`: a TOML file, else what $POLYSEM_CONFIG names.

    Raises InvalidArgument that names the setting, or the file that cannot be read.
    """
    path = config or (Path(os.environ["POLYSEM_CONFIG"]) if os.environ.get("POLYSEM_CONFIG") else None)
    if path is not None and not path.is_file():
        raise InvalidArgument(f"there is no settings file {str(path)!r}")
    try:
        return _with_file(path)(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"]) or "settings"
        raise InvalidArgument(f"setting {name}: {problem['msg']}, not {problem['input']!r}", name) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the settings file {str(path)!r} is no TOML: {error}") from error


def _with_file(path: Path | None) -> type[Settings]:
    class WithFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file = (TomlConfigSettingsSource(settings_cls, path),) if path else ()
            return (init_settings, env_settings, *file)

    return WithFile


def devices_of(names: str | None) -> list[str]:
    """The devices that `--device` or `--split-layers` names; none where it is not given."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]
