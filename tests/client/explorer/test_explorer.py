"""What the explorer sends, without a browser: headers, statuses, and whom it answers."""

import http.client
import json
import re
import time
from functools import partial
from urllib.parse import quote, urlsplit

import pytest
from click.testing import CliRunner

from polysem.client import Client
from polysem.client.commands.cli import cli
from polysem.client.drawing import browser
from polysem.client.explorer import app
from polysem.client.explorer.questions import View, neuron_id
from polysem.proto.errors import InvalidArgument, NotFound

KEY = "a-key-that-stays-here"


@pytest.fixture(scope="module")
def get(client):
    """A function that asks a running explorer: (path, host) to (status, headers, body)."""
    import threading

    import uvicorn

    with_key = Client(client.target, token=KEY)
    config = uvicorn.Config(app.make_app(with_key), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]

    def get_(connection, host, path):
        connection.request("GET", path, headers={"Host": host})

    def answer_of(path, host=None, ask=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        (ask or partial(get_, path=path))(connection, host or f"127.0.0.1:{port}")
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read().decode()
        connection.close()
        if found[0] == 202:  # a page in grey
            time.sleep(0.2)
            return answer_of(path, host, ask)
        return found

    yield answer_of
    server.should_exit = True
    thread.join()
    with_key.close()


@pytest.mark.parametrize(
    "path", ["/", "/neuron/0.1", "/neuron/99.1", "/api/neuron/0.1", "/static/neuron.js", "/nothing"]
)
def test_every_answer_forbids_scripts_from_elsewhere(get, path):
    _, headers, _ = get(path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_no_page_has_a_script_or_a_style_in_it(get):
    for path in ("/", "/neuron/0.1", "/neuron/99.1"):
        _, _, body = get(path)
        assert " style=" not in body
        assert "<style" not in body
        assert body.count("<script") == body.count("<script src=") + body.count('<script type="application/json"')


def test_the_api_answers_what_the_client_would(get, client):
    status, _, body = get("/api/neuron/0.1?algorithm=scc&distance_threshold=0.4")
    wanted = client.cluster("0.1", algorithm="scc", distance_threshold=0.4, n_null=99)[0]
    assert status == 200
    most = client.statistics("0.1")[0].maximum_activation
    names = list(client.labels("0.1", algorithm="scc", distance_threshold=0.4))
    data = browser.data(wanted, wanted.examples, wanted.silhouettes, most, names) | {"kept": []}
    assert json.loads(body) == json.loads(json.dumps(data))


def test_a_mistyped_neuron_is_told_and_a_right_one_has_an_address(get):
    for typed, address in (
        ("0.1", "/neuron/0.1"),
        ("L0N1", "/neuron/0.1"),
        ("0.1.B", "/neuron/0.1/B"),
        ("0.1 b", "/neuron/0.1/B"),
    ):
        assert json.loads(get(f"/api/go?neuron={quote(typed)}")[2]) == {"address": address}
    for typed, status, words in (
        ("99.1", 404, "there is no neuron 99.1"),
        ("0.99999", 404, "there is no neuron 0.99999"),
        ("cat", 400, "'cat' is not a neuron"),
        ("", 400, "is not a neuron"),
        ("0.*", 400, "names many neurons"),
        ("B", 400, "'B' is not a neuron"),
    ):
        found, _, body = get(f"/api/go?neuron={quote(typed)}")
        assert (found, words in json.loads(body)["error"]) == (status, True), body


def test_without_a_script_the_go_box_goes_to_the_search(get):
    for typed, address in (("cat%20%26", "/search?q=cat+%26"), ("0.1", "/neuron/0.1"), ("L0N1", "/neuron/0.1")):
        status, headers, _ = get(f"/go?neuron={typed}")
        assert (status, headers["location"]) == (303, address)


def test_errors_have_a_status_and_words(get):
    for path, status, words in (
        ("/api/neuron/0.1/ablation/9999", 404, "no cluster 9999"),
        ("/api/neuron/99.1", 404, "there is no neuron 99.1"),
        ("/api/neuron/x", 400, "'x' is not a neuron"),
        ("/api/neuron/0.1/example/100000", 404, "neuron 0.1 has no example 100000"),
        ("/api/neuron/0.1/example/99999999999999999999", 404, "has no example 99999999999999999999"),
    ):
        found, _, body = get(path)
        assert (found, words in json.loads(body)["error"]) == (status, True), body


@pytest.mark.parametrize(
    ("origin", "kind", "status"),
    [
        (None, "application/json", 403),
        ("http://evil.example", "application/json", 403),
        ("null", "application/json", 403),
        ("http://{host}", "text/plain", 403),
        ("http://{host}", "application/json", 400),  # it is read: {} is no name
    ],
)
def test_only_the_explorers_own_pages_may_post(get, origin, kind, status):
    def post(connection, host):
        headers = {"Host": host, "Content-Type": kind}
        if origin:
            headers["Origin"] = origin.format(host=host)
        connection.request("POST", "/api/neuron/0.1/name", "{}", headers)

    found, _, body = get("", ask=post)
    assert found == status, body


def test_a_page_elsewhere_that_points_its_own_name_here_is_refused(get):
    assert get("/api/neuron/0.1", host="evil.example")[0] == 400
    assert get("/api/neuron/0.1", host="localhost")[0] == 200


def test_the_servers_key_never_leaves_the_explorer(get):
    for path in (
        "/",
        "/neuron/0.1",
        "/neuron/99.1",
        "/text",
        "/api/neuron/0.1",
        "/api/neuron/x",
        "/static/neuron.js",
    ):
        _, headers, body = get(path)
        assert KEY not in body
        assert KEY not in str(headers)


class SleepyClient:
    """Its server warms up until it is woken."""

    target = "nowhere:1"
    awake = False

    def serving(self, timeout_s):
        return self.awake

    def indexes(self):
        raise NotFound("there is no index here")


def test_while_the_server_warms_up_pages_say_so_at_once_and_wait():
    from starlette.testclient import TestClient

    sleepy = SleepyClient()
    browser = TestClient(app.make_app(sleepy, ("testserver",)))
    page = browser.get("/neuron/0.1")
    assert page.status_code == 503
    assert "The server is warming up" in page.text
    assert "data-until-it-serves" in page.text
    answer = browser.get("/api/neuron/0.1")
    assert (answer.status_code, answer.json()["warming_up"]) == (503, True)
    assert browser.get("/api/serving").json() == {"serving": False}
    sleepy.awake = True
    assert browser.get("/api/serving").json() == {"serving": True}
    assert "there is no index here" in browser.get("/").text


def test_scripts_and_styles_are_kept_by_browsers_until_they_change(get):
    _, _, body = get("/")
    named = re.findall(r'"(/static/[^"]+)"', body)
    assert len(named) == 6
    for path in named:
        _, headers, _ = get(path)
        assert "immutable" in headers["cache-control"]
    for path in ("/static/neuron.js", "/static/neuron.js?v=old"):
        assert get(path)[1]["cache-control"] == "no-cache"


def test_files_outside_the_list_are_not_given(get):
    for path in ("/static/app.py", "/static/../app.py", "/static/%2e%2e/app.py", "/static/"):
        assert get(path)[0] == 404


def test_beyond_loopback_it_wants_to_be_told():
    result = CliRunner().invoke(cli, ["explore", "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "--insecure" in result.output


def test_a_port_in_use_is_told(client):
    port = str(urlsplit(f"//{client.target}").port)
    result = CliRunner().invoke(cli, ["explore", "--server", client.target, "--port", port])
    assert result.exit_code == 1
    assert f"cannot listen at 127.0.0.1:{port}" in result.output


def test_an_address_has_only_what_differs_from_the_usual():
    assert View().query() == ""
    view = View.of({"algorithm": "scc", "linkage": "average", "distance_threshold": "0.25", "more": "1"})
    assert view.query() == "?by=scc&cut=0.25"
    assert View.of({"by": "scc", "cut": "0.25"}) == view
    assert View.of({}) == View()


def test_a_page_shows_one_neuron():
    assert str(neuron_id("L2N17")) == "2.17"
    assert str(neuron_id("2.17-17")) == "2.17"
    for text in ("2.*", "*", "2.1-5"):
        with pytest.raises(InvalidArgument, match="names many neurons"):
            neuron_id(text)


def test_json_in_a_page_cannot_end_its_script():
    text = browser.json_in_html({"a": "</script><!-- \u2028 &"})
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == {"a": "</script><!-- \u2028 &"}
