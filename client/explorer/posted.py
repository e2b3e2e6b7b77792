"""Posts of the pages' own scripts. A page elsewhere can send none: its origin is another."""

import json
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from polysem.proto.errors import InvalidArgument, PermissionDenied

MAX_BYTES = 1 << 19


async def read(request: Request) -> dict[str, Any]:
    """Return the JSON object that a page of this explorer posted.

    Raises PermissionDenied for another page's, and InvalidArgument for what is no JSON object, or too long.
    """
    origin, kind = request.headers.get("origin", ""), request.headers.get("content-type", "")
    if urlsplit(origin).netloc != request.headers.get("host") or kind.partition(";")[0] != "application/json":
        raise PermissionDenied("only a page of this explorer may send this; reload the page and try again")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise InvalidArgument(
                f"the page sent more than {MAX_BYTES:,} bytes; name smaller clusters with `polysem name`"
            )
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("the page sent no JSON") from error
    if not isinstance(found, dict):
        raise InvalidArgument("the page sent no JSON object")
    return found
