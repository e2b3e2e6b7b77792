"""The web application: addresses, and what each asks the server.

/                  the overview, or its table      /neuron/2.185   a neuron; /neuron/2.185/B, its cluster B opened
/search?q=…        clusters by words              /list?c=…       clusters that one keeps
/map?layer=2       a layer's clusters in groups   /map?layer=2&group=0   the clusters of one
/go?neuron=2.185   to its page                     /random         to some neuron with examples
/text?text=…       one's own text                  /api/…          JSON for the pages' script
/static/…          scripts and styles              /api/serving   whether the server answers by now
                                                   /api/ready     whether a page's answer is there by now

The same parameters everywhere say how neurons are clustered (questions.View), so every view has an address.
"""

import random
import re
import uuid
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from polysem.client.client import Client
from polysem.client.drawing import browser
from polysem.client.explorer import (
    ablation,
    columns,
    files,
    maps,
    naming,
    neuron_page,
    overview,
    own_text,
    posted,
    search,
)
from polysem.client.explorer.asking import Asking, ticket
from polysem.client.explorer.questions import CHOICES, Table, View, named, named_neurons, neuron_id
from polysem.client.lists import MAX_IN_LINK
from polysem.client.questions.examples import Example
from polysem.proto import errors
from polysem.proto.facts import IndexInfo
from polysem.proto.neurons import MAX_INDEX, NeuronId
from polysem.proto.questions.clustering import mixed_methods

FOLDER = Path(__file__).parent
TRIES = 20  # at a random neuron with examples
HEALTH_TIMEOUT_S = 2.0
FRAME_S = 0.3  # after which a page comes in grey
WAITING = {  # pages that may, and what the server does for them
    "home": "The server clusters every neuron: the first question about a clustering takes longest, others are quick.",
    "neuron": "The server clusters the neuron's examples and compares them with random rotations of them.",
    "map": "The server makes the map of the layer, the first time only: every neuron's clusters, the nearest of each, "
    "and the names of groups.",
    "text": "The server reads your text with the model, and clusters the neurons that fire in it.",
}
STATUS = (
    (errors.InvalidArgument, 400),
    (errors.NotFound, 404),
    (errors.FailedPrecondition, 409),
    (errors.Overloaded, 503),
    (errors.WarmingUp, 503),
    (errors.DeadlineExceeded, 504),
    (errors.Unavailable, 502),
    (errors.Unauthenticated, 502),
    (errors.PermissionDenied, 403),
    (errors.Unsupported, 501),
)
TITLES = (
    (errors.WarmingUp, "The server is warming up"),
    (errors.Unavailable, "No server answers"),
    (errors.DeadlineExceeded, "The server is at work"),
)
PAGE = 100  # rows of the table
SENTENCE = ("layer", "kind", "sort_by", "clear", "page", "look")  # what the overview's sentence says, or starts anew

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def make_app(client: Client, hosts: tuple[str, ...] = LOOPBACK, asking: Asking | None = None) -> Starlette:
    """The application over a client, which stays the caller's to close, as `asking` does.

    hosts  names under which browsers may address it: a page elsewhere that points its own name here is refused
    """
    warnings.simplefilter("ignore", errors.MixedMethodsWarning)  # the pages say it themselves
    pages = _Pages(client, asking or Asking(client.serving))
    questions = {
        "/": pages.home,
        "/go": pages.go,
        "/api/go": pages.go_json,
        "/api/neurons": pages.rows_json,
        "/api/names": pages.names_json,
        "/random": pages.random,
        "/text": pages.text,
        "/search": pages.search,
        "/api/search": pages.search_json,
        "/list": pages.kept_list,
        "/map": pages.map,
        "/neuron/{neuron}": pages.neuron,
        "/neuron/{neuron}/{cluster}": pages.neuron,
        "/api/neuron/{neuron}": pages.neuron_json,
        "/api/neuron/{neuron}/example/{example}": pages.example_json,
        "/api/neuron/{neuron}/importance/{example}": pages.importance_json,
        "/api/neuron/{neuron}/logit_effects": pages.logit_effects_json,
        "/api/neuron/{neuron}/similar/{cluster}": pages.similar_json,
        "/api/neuron/{neuron}/ablation/{cluster}": pages.ablation_json,
    }
    routes = [Route(address, pages.once_it_serves(answer)) for address, answer in questions.items()]
    routes += [Route("/api/neuron/{neuron}/name", pages.name_json, methods=["POST"])]
    routes += [Route("/api/serving", pages.serving_json), Route("/api/ready", pages.ready_json)]
    routes += [Route("/static/{name}", files.static)]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)), Middleware(files.Headers)]
    handlers: dict[Any, Any] = {
        errors.PolysemError: pages.failed,
        HTTPException: pages.missing,
        Exception: pages.broken,
    }
    return Starlette(
        routes=routes,
        middleware=[*middleware, Middleware(GZipMiddleware, compresslevel=4)],
        exception_handlers=handlers,
    )


def _number(request: Request, name: str) -> int:
    """The number of an example or a cluster in an address, however long. Raises HTTPException (404) and NotFound."""
    text = request.path_params[name]
    if not (text.isascii() and text.isdecimal()):
        raise HTTPException(404)
    number = int(text.lstrip("0")[:11] or "0")
    if number > MAX_INDEX:
        raise errors.NotFound(f"neuron {request.path_params['neuron'][:40]} has no {name} {text[:40]}")
    return number


def _status(error: errors.PolysemError) -> int:
    return next((code for type_, code in STATUS if isinstance(error, type_)), 500)


def _asked(request: Request) -> str:
    """Return the short words for the clustering that an address asks for."""
    return f"{request.url.path}{'?' * bool(request.url.query)}{request.url.query}"[:200]


class _Pages:
    def __init__(self, client: Client, asking: Asking) -> None:
        self._client, self._asking = client, asking
        self._names = naming.RowNames(client)
        self._indexes: list[IndexInfo] = []
        self._serves = False  # as far as is known
        loader = jinja2.FileSystemLoader(FOLDER / "pages")
        self._templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)

    def once_it_serves(self, answer: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        """The same, but told at once where the server warms up; the client would come back to it for a while."""

        def ask(request: Request) -> Response:
            if not self._serves and not self._client.serving(HEALTH_TIMEOUT_S):
                raise errors.WarmingUp("the server is warming up, or stopping: it answers no questions yet")
            self._serves = True
            try:
                return answer(request)
            except errors.Unavailable:
                self._serves = False
                raise

        async def answered(request: Request) -> Response:
            address, question = str(request.url), lambda: ask(request)
            if (waiting := WAITING.get(answer.__name__)) is None:
                return await self._asking.answer(address, question)
            found = await self._asking.soon(address, question, FRAME_S)
            return found or self._waiting(request, answer.__name__, waiting)

        return answered

    def _waiting(self, request: Request, kind: str, doing: str) -> Response:
        """A page in grey, which comes back once the answer is there."""
        said = {"kind": kind, "doing": doing, "ticket": ticket(str(request.url))}
        shown = {"id": request.path_params.get("neuron", "")[:40], "text": request.query_params.get("text", "")}
        return self._page("waiting.html", View(), 202, title=shown["id"] or "Polysem", **said, **shown)

    async def ready_json(self, request: Request) -> Response:
        """For the script of a page in grey: whether its answer is there, or the server says nothing."""
        ready = await self._asking.ready(request.query_params.get("ticket", ""))
        return JSONResponse({"ready": ready, "away": not ready and not await self._asking.serves()})

    async def serving_json(self, request: Request) -> Response:
        """For the script of a page that waits for the server."""
        return JSONResponse({"serving": await self._asking.serves()})

    def home(self, request: Request) -> Response:
        view, table = View.of(request.query_params), Table.of(request.query_params)
        self._index(view)
        if table.look == "table":
            return self._table(view, table)
        try:
            found = overview.listing(self._client, view, replace(table, page=1))
        except errors.Unsupported:  # an older server knows no kinds of neurons
            return self._table(view, table)
        assert found.summary is not None
        n_matching, tested = found.n_matching, found.summary.n_tested > 0
        data = {
            "field": overview.field(found.summary, table),
            "rows": overview.rows(self._client, view, list(found), self._names),
            "n_pages": max(1, -(-n_matching // overview.N_ROWS)),
        }
        return self._page(
            "home.html",
            view,
            title="Overview",
            table=table,
            kinds=[(kind, found.summary.kinds[kind.name]) for kind in overview.kinds(tested)],
            orders=overview.orders(table, tested),
            kept_filters=[(k, v) for k, v in table.parameters().items() if k not in SENTENCE and v not in (None, "")],
            n_matching=n_matching,
            mixed=mixed_methods(found.n_approximate, n_matching),
            data=data,
        )

    def rows_json(self, request: Request) -> Response:
        """The rows of a page of the overview."""
        view, table = View.of(request.query_params), Table.of(request.query_params)
        found = overview.listing(self._client, view, table)
        return JSONResponse({"rows": overview.rows(self._client, view, list(found), self._names)})

    def names_json(self, request: Request) -> Response:
        """The names of the clusters of rows in view, by neuron and label."""
        view = View.of(request.query_params)
        ids = [neuron_id(text) for text in named_neurons(request.query_params.get("neurons", ""))]
        found = self._names.asked(view, list(dict.fromkeys(ids)))
        return JSONResponse({str(id_): texts for id_, texts in found.items()})

    def _table(self, view: View, table: Table) -> Response:
        """The overview as a table of metrics."""
        of_tests = columns.of_tests(self._index(view))
        order = table.sort_by or (overview.BEYOND_CHANCE if of_tests else "-n_clusters")
        found = overview.sorted_by(self._client, view, table, order, PAGE)
        rows, n_matching = list(found), found.n_matching
        return self._page(
            "table.html",
            view,
            title=f"{self._index(view).unit.capitalize()}s",
            table=table,
            rows=rows,
            n_matching=n_matching,
            mixed=mixed_methods(found.n_approximate, n_matching),
            n_pages=max(1, -(-n_matching // PAGE)),
            first=PAGE * (table.page - 1) + 1,
            order=order,
            columns=(*of_tests, *columns.ALWAYS),
            filters=(*(column.metric for column in of_tests), *columns.FILTERS),
            tested=bool(of_tests),
            where=dict(table.where),
        )

    def go(self, request: Request) -> Response:
        """Go where the box in the head of every page says; of words to the search for them."""
        view, words = View.of(request.query_params), request.query_params.get("neuron", "").strip()
        if words and not re.match(r"L\d+N|\d+\.", words, re.IGNORECASE):
            return RedirectResponse(f"/search{view.query(q=words)}", 303)
        return RedirectResponse(self._named(request), 303)

    def go_json(self, request: Request) -> Response:
        """Answer the page's script as `go` does; the page stays if the neuron is mistyped."""
        address = self._named(request)
        return JSONResponse({"address": address})

    def _named(self, request: Request) -> str:
        """The address of the neuron, or cluster, that is named. Raises InvalidArgument and NotFound."""
        view = View.of(request.query_params)
        id_, letter = named(request.query_params.get("neuron", ""))
        self._client.statistics(id_, **view.asked_of())[0]  # NotFound where there is no such neuron
        return f"/neuron/{id_}{f'/{letter}' if letter else ''}{view.query()}"

    def random(self, request: Request) -> Response:
        """To a neuron with examples; to any where none is found soon."""
        view = View.of(request.query_params)
        index = self._index(view)
        for _ in range(TRIES):
            layer = random.choice(index.held_layers)
            id_ = NeuronId(layer, random.randrange(index.width(layer)))
            if len(self._client.examples(id_, **view.asked_of())):
                break
        return RedirectResponse(f"/neuron/{id_}{view.query()}", 303)

    def neuron(self, request: Request) -> Response:
        id_, view = neuron_id(request.path_params["neuron"]), View.of(request.query_params)
        index = self._index(view)
        return self._page(
            "neuron.html",
            view,
            title=f"{index.unit.capitalize()} {id_}{', negative side' * (view.side == 'negative')}",
            id=str(id_),
            layer=id_.layer,
            encoder=next((one for one in index.encoders if one.layer == id_.layer), None),
            open=request.path_params.get("cluster", ""),
            before=None if id_.neuron == 0 else f"{id_.layer}.{id_.neuron - 1}",
            after=None if id_.neuron + 1 >= index.width(id_.layer) else f"{id_.layer}.{id_.neuron + 1}",
            data=(data := neuron_page.data(self._client, id_, view)),
            statistics=neuron_page.histogram(self._client.statistics(id_, **view.asked_of())[0], index),
            nearby=[] if data["n"] else neuron_page.nearby(self._client, id_, view, index),
        )

    def text(self, request: Request) -> Response:
        """The user's own text, token by token."""
        view, text = View.of(request.query_params), request.query_params.get("text", "")
        if request.query_params.get("line_ends") == "lf":  # from the form: browsers send all its line ends as CR LF
            text = text.replace("\r\n", "\n")
        asked = named_neurons(request.query_params.get("neurons", ""))
        read, wrong, status = None, None, 200
        if "text" in request.query_params:
            try:
                read = own_text.read(self._client, view, text, asked)
            except errors.Unavailable:
                raise
            except errors.PolysemError as error:  # told beside the box, so that the text is not lost
                wrong, status = error.message, _status(error)
        self._index(view)
        values = {"title": "Your text", "text": text, "neurons": " ".join(asked)}
        return self._page("text.html", view, status, read=read, wrong=wrong, **values)

    def search(self, request: Request) -> Response:
        """Clusters by words and key tokens."""
        view = View.of(request.query_params)
        index, wanted, data, wrong, status = self._index(view), search.asked(request.query_params), None, None, 200
        if wanted["q"]:
            try:
                data = search.found(self._client, view, wanted)
            except (errors.InvalidArgument, errors.Unsupported) as error:
                wrong, status = error.message, _status(error)
        offered = search.choices(index.held_layers, wanted, data or {})
        return self._page("search.html", view, status, title="Search", data=data, wrong=wrong, **offered)

    def search_json(self, request: Request) -> Response:
        """For the script of a page that waits until the search file is made."""
        view = View.of(request.query_params)
        return JSONResponse(search.found(self._client, view, search.asked(request.query_params)))

    def kept_list(self, request: Request) -> Response:
        """Clusters that one keeps, by their address."""
        view, wrong, status = View.of(request.query_params), None, 200
        data: dict[str, Any] = {"rows": []}
        self._index(view)
        try:
            data = search.listed(self._client, view, request.query_params.get("c", ""))
        except (errors.InvalidArgument, errors.NotFound) as error:
            wrong, status = error.message, _status(error)
        said = {"title": "List of clusters", "data": data, "wrong": wrong, "most": MAX_IN_LINK}
        return self._page("list.html", view, status, **said)

    def neuron_json(self, request: Request) -> Response:
        id_, view = neuron_id(request.path_params["neuron"]), View.of(request.query_params)
        return JSONResponse(neuron_page.data(self._client, id_, view))

    def logit_effects_json(self, request: Request) -> Response:
        """Answer what the neuron writes."""
        id_, view = neuron_id(request.path_params["neuron"]), View.of(request.query_params)
        return JSONResponse(browser.effects_data(self._client.logit_effects(id_, **view.asked_of())[0]))

    def example_json(self, request: Request) -> Response:
        """An example in its whole context."""
        id_, view = neuron_id(request.path_params["neuron"]), View.of(request.query_params)
        return JSONResponse(browser.example_data(self._example(id_, _number(request, "example"), view, whole=True)))

    def _example(self, id_: NeuronId, number: int, view: View, whole: bool) -> Example:
        for example in self._client.examples(id_, examples=[number], whole_context=whole, **view.asked_of()):
            return example
        raise errors.NotFound(f"{self._index(view).unit} {id_} has no example {number}")

    def importance_json(self, request: Request) -> Response:
        """Return for each token of an example, up to its key token, how much the activation needs it, 0..1."""
        id_, view = neuron_id(request.path_params["neuron"]), View.of(request.query_params)
        number = _number(request, "example")
        example = self._example(id_, number, view, whole=False)
        found = self._client.importance(id_, examples=[number], tokens_before=example.key, **view.asked_of())[0]
        return JSONResponse({"importances": [round(float(share), 3) for share in found.relative]})

    def similar_json(self, request: Request) -> Response:
        """Clusters of other neurons like this one's, each with its central example."""
        id_, view = neuron_id(request.path_params["neuron"]), View.of(request.query_params)
        label = _number(request, "cluster")
        everywhere = request.query_params.get("every_layer") == "1"
        return JSONResponse(neuron_page.similar(self._client, view, id_, label, everywhere))

    def ablation_json(self, request: Request) -> Response:
        """Answer what a cluster causes, in words."""
        id_, view = neuron_id(request.path_params["neuron"]), View.of(request.query_params)
        return JSONResponse(ablation.found(self._client, view, id_, _number(request, "cluster")))

    def map(self, request: Request) -> Response:
        """A layer's clusters in groups, or one group's."""
        view = View.of(request.query_params)
        index = self._index(view)
        wanted = maps.asked(request.query_params, index.held_layers)
        said = maps.page(self._client, view, wanted, index.unit)
        return self._page("group.html" if wanted.group is not None else "map.html", view, wanted=wanted, **said)

    async def name_json(self, request: Request) -> Response:
        """Keep the name that a page posts."""
        id_, view = neuron_id(request.path_params["neuron"]), View.of(request.query_params)
        sent = await posted.read(request)

        def keep() -> Response:
            naming.keep(self._client, id_, view, sent)
            return JSONResponse({})

        answer = await self._asking.answer(f"{request.url} {uuid.uuid4()}", keep)
        self._asking.changed()
        return answer

    def _index(self, view: View) -> IndexInfo:
        """The index that a view is of. Indexes do not change while a server runs; an unknown name is asked anew."""
        for _ in range(2):
            for info in self._indexes:
                if view.index in (None, info.name):
                    return info
            self._indexes = self._client.indexes()
        names = ", ".join(info.name for info in self._indexes)
        raise errors.UnknownIndex(f"there is no index {str(view.index)[:80]!r}; the server has {names}")

    def _page(self, template: str, view: View, status: int = 200, **values: Any) -> HTMLResponse:
        index = next((info for info in self._indexes if view.index in (None, info.name)), None)
        html = self._templates.get_template(template).render(
            view=view,
            kept=parse_qsl(view.query()[1:]),
            choices=CHOICES,
            server=self._client.target,
            indexes=[info.name for info in self._indexes],
            index=index,
            unit="neuron" if index is None else index.unit,
            here={
                "home.html": "/",
                "table.html": "/",
                "text.html": "/text",
                "search.html": "/search",
                "list.html": "/list",
                "map.html": "/map",
                "group.html": "/map",
            }.get(template),
            json=browser.json_in_html,
            static=files.address,
            **values,
        )
        return HTMLResponse(html, status)

    # ---- Errors, in words: as a page, or as JSON for the page's script

    async def failed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.PolysemError)
        warming = isinstance(error, errors.WarmingUp | errors.DeadlineExceeded)
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": error.message, "warming_up": warming}, _status(error))
        away = isinstance(error, errors.Unavailable | errors.DeadlineExceeded)
        title = next((title for type_, title in TITLES if isinstance(error, type_)), "That did not work")
        said = {"title": title, "message": error.message, "away": away, "asked": _asked(request)}
        return self._page("error.html", View(), _status(error), **said)

    async def missing(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"there is no page {request.url.path[:80]}" if error.status_code == 404 else str(error.detail)
        return await self._error(request, error.status_code, message)

    async def broken(self, request: Request, error: Exception) -> Response:
        return await self._error(
            request, 500, f"the explorer failed at this: {type(error).__name__}; its log says more"
        )

    async def _error(self, request: Request, status: int, message: str) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": message}, status)
        said = {"title": "That did not work", "message": message, "away": False, "asked": _asked(request)}
        return self._page("error.html", View(), status, **said)
