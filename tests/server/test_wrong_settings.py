"""Settings that are wrong, empty, or not given: each told by name, or not in the way of the next source."""

from pathlib import Path

import pytest

from polysem.proto.errors import InvalidArgument
from polysem.server import settings
from polysem.server.settings import Settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in ("CONFIG", *(field.upper() for field in Settings.model_fields)):
        monkeypatch.delenv(f"POLYSEM_{name}", raising=False)


@pytest.fixture
def toml(tmp_path):
    """A function that writes a settings file."""

    def write(text):
        path = tmp_path / "polysem.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_the_defaults_are_a_loopback_server_on_its_own_port():
    got = settings.read()
    assert (got.host, got.port, got.insecure) == ("127.0.0.1", 50051, False)
    assert (got.index, got.model, got.device, got.dtype) == ([], None, "auto", "float32")


def test_a_flag_that_was_not_given_hides_nothing(toml, monkeypatch):
    monkeypatch.setenv("POLYSEM_PORT", "2")
    got = settings.read(toml('host = "::1"'), port=None, host=None, index=None, insecure=None)
    assert (got.port, got.host, got.index, got.insecure) == (2, "::1", [], False)


def test_a_file_may_name_several_indexes(toml):
    for text in ('index = ["/a", "/b"]', 'index = "/a:/b"'):
        assert settings.read(toml(text)).index == [Path("/a"), Path("/b")]


def test_an_empty_variable_is_no_setting(monkeypatch):
    monkeypatch.setenv("POLYSEM_PORT", "")
    monkeypatch.setenv("POLYSEM_CONFIG", "")
    assert settings.read().port == 50051


def test_other_variables_of_ours_are_no_settings(monkeypatch):
    monkeypatch.setenv("POLYSEM_CACHE_DIR", "/tmp/somewhere")
    monkeypatch.setenv("POLYSEM_SERVER", "gpu-box:50051")
    assert settings.read().host == "127.0.0.1"


WRONG = {
    "port": [-1, 65536, "http", 1.5],
    "dtype": ["int8", "float64", ""],
    "max_batch_cost": [0, -1, "nan", "much"],
    "max_requests_in_flight": [0, -1, "many"],
    "max_queued_cost": [0, -1, "nan"],
    "max_wait_ms": [-1, 1001, "long"],
    "bulk_batch_ms": [0, -1],
    "metrics_port": [-1, 65536],
    "log_format": ["xml"],
    "require_keys": ["perhaps"],
    "drain_s": [-0.5, "nan", "soon"],
    "insecure": ["perhaps"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_told_with_its_name(name, value):
    with pytest.raises(InvalidArgument, match=f"setting {name}: .*, not ") as raised:
        settings.read(**{name: value})
    assert raised.value.field == name
    assert str(value) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "value"), [("PORT", "http"), ("DTYPE", "int8"), ("INSECURE", "perhaps")])
def test_a_wrong_value_in_the_environment_is_told_too(monkeypatch, name, value):
    monkeypatch.setenv(f"POLYSEM_{name}", value)
    with pytest.raises(InvalidArgument, match=f"setting {name.lower()}: .*, not '{value}'"):
        settings.read()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nport = 1", "setting server"),
        ("port = 1\nport = 2", r"the settings file .* is no TOML"),
        (b'model = "caf\xe9"', r"the settings file .* is no TOML"),
        (b"\x89PNG\0", r"the settings file .* is no TOML"),
    ],
)
def test_a_wrong_file_is_told_in_a_sentence(toml, text, words):
    with pytest.raises(InvalidArgument, match=words):
        settings.read(toml(text))


def test_a_file_that_is_not_there_is_told(tmp_path, monkeypatch):
    with pytest.raises(InvalidArgument, match=f"there is no settings file '{tmp_path}'"):
        settings.read(tmp_path)
    monkeypatch.setenv("POLYSEM_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(InvalidArgument, match="there is no settings file"):
        settings.read()
