"""Scripts and styles of the pages, and the headers of every answer."""

import hashlib
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polysem.client.drawing import browser

FOLDER = Path(__file__).parent / "static"
NAMES = (
    *("page.js", "overview.js", "neuron.js", "text.js", "picture.js", "downloads.js", "histogram.js", "clusters.js"),
    "ablation.js",
    *("explorer.css", "icon.svg"),
)
DRAWING = {"drawing.js": browser.script, "drawing.css": browser.style}
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Headers:
    """Middleware that adds the headers of every answer, also of an error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in present)]
            await send(message)

        await self._app(scope, receive, with_headers)


async def static(request: Request) -> Response:
    """A script, a style or the icon. Raises HTTPException (404)."""
    name = request.path_params["name"]
    if name not in NAMES and name not in DRAWING:
        raise HTTPException(404)
    named = request.query_params.get("v") == _version(name)
    kept = "max-age=31536000, immutable" if named else "no-cache"
    return Response(_content(name), media_type=TYPES[Path(name).suffix], headers={"cache-control": kept})


@cache
def _content(name: str) -> bytes:
    return DRAWING[name]().encode() if name in DRAWING else (FOLDER / name).read_bytes()


@cache
def _version(name: str) -> str:
    return hashlib.sha256(_content(name)).hexdigest()[:12]


def address(name: str) -> str:
    """Return the address of a file as it is now, so that a browser may keep it for good."""
    return f"/static/{name}?v={_version(name)}"
