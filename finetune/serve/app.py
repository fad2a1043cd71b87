"""The routes: what can be asked over HTTP, and how it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from jinja2 import Environment
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

import finetune
from finetune.deliver.predict import Prediction
from finetune.errors import ResourceError, out_of_memory
from finetune.files import to_json, visible
from finetune.serve.batching import Batcher, QueueFull
from finetune.serve.gate import State, refusal
from finetune.serve.intake import Intake, Limits, Refused
from finetune.serve.metrics import ServerMetrics
from finetune.serve.thumbnails import Thumbnails

TOP = 5
"""Classes in an answer, unless `topk` says otherwise."""

PAGE = {"app.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"}
"""Files of the page, with their types."""

TRY_AGAIN = {"retry-after": "1"}
ABOUT = "Sends back what a picture shows. The answers are those of `finetune predict`."


class Score(BaseModel):
    """A class and its probability."""

    label: str
    confidence: float


class Near(BaseModel):
    """An image of the store."""

    label: str | None = Field(description="Its class.")
    distance: float = Field(description="Cosine distance, from 0 to 2.")
    image: str = Field(description="Where a thumbnail of it is, relative to the server's root.")


class Row(BaseModel):
    """The answer for one picture."""

    name: str = Field(description="The file's name; empty for a raw body.")
    label: str | None = Field(
        description="The most probable class; null with an error, and where the network abstains."
    )
    confidence: float | None = Field(description="Probability of the most probable class.")
    top: list[Score] = Field(description="The most probable classes, the first `topk` of them.")
    abstained: bool = Field(description="The confidence is below the threshold of the run.")
    error: str | None = Field(description="Why this picture could not be read.")
    neighbours: list[Near] | None = Field(None, description="The nearest images of the store, where there is one.")


class Answer(BaseModel):
    """One row for each picture, in their order."""

    predictions: list[Row]


class Refusal(BaseModel):
    """Why there is no answer."""

    error: str


@dataclass(frozen=True)
class Served:
    """The state that the routes share.

    Attributes:
        batcher: answers pictures.
        about: what GET /model says.
        metrics: what is counted.
        state: whether the server drains.
        limits: of what is taken in.
        thumbnails: of the store's images, if there is a store.
    """

    batcher: Batcher
    about: dict[str, Any]
    metrics: ServerMetrics
    state: State
    limits: Limits
    thumbnails: Thumbnails | None = None


def make_app(served: Served) -> FastAPI:
    """The application, without the gate in front of it."""
    app = FastAPI(title="finetune", version=finetune.__version__, description=ABOUT, docs_url=None, redoc_url=None)
    _answer_errors(app)
    _predict_route(app, served)
    _status_routes(app, served)
    _pages(app)
    if served.thumbnails is not None:
        _thumbnail_route(app, served.thumbnails)
    return app


def _predict_route(app: FastAPI, served: Served) -> None:
    intake = Intake(served.limits)

    async def predict(request: Request, topk: Annotated[int, Query(ge=1)] = TOP) -> Response:
        """Say what one picture or several show; one that cannot be read has an `error` in its row (status 200)."""
        taken = [0]
        try:
            pictures = await intake.pictures(request, taken)
            futures = served.batcher.submit([data for _, data in pictures])
            answers = await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            intake.held -= taken[0]  # also where the client has gone: else the server would fill up with nothing
        store = served.thumbnails is not None
        rows = [row(visible(name), answer, topk, store) for (name, _), answer in zip(pictures, answers, strict=True)]
        for answered in rows:
            served.metrics.images.labels("error" if answered["error"] else "ok").inc()
        return Response(to_json({"predictions": rows}), media_type="application/json")

    extra = {"requestBody": _body()}
    description = "One row for each picture, in their order."
    app.post(
        "/predict", response_model=Answer, response_description=description, responses=_refusals(), openapi_extra=extra
    )(predict)


def row(name: str, answer: Prediction, topk: int, store: bool) -> dict[str, Any]:
    """One picture's answer, as JSON holds it; with a store, its neighbours, too."""
    top = [{"label": label, "confidence": confidence} for label, confidence in answer.top(topk)]
    answer_row = {
        "name": name,
        "label": answer.label,
        "confidence": answer.confidence,
        "top": top,
        "abstained": answer.abstained,
        "error": answer.error,
    }
    near = [{"label": n.label, "distance": n.distance, "image": f"neighbours/{n.sha256}"} for n in answer.neighbours]
    return answer_row | {"neighbours": near} if store else answer_row


def _thumbnail_route(app: FastAPI, thumbnails: Thumbnails) -> None:
    def neighbour(sha256: str) -> Response:
        """A thumbnail of an image of the store, as JPEG."""
        jpeg = thumbnails.jpeg(sha256)
        if jpeg is None:
            raise HTTPException(404)
        return Response(jpeg, media_type="image/jpeg")

    app.get("/neighbours/{sha256}", response_class=Response)(neighbour)  # in a thread: it decodes


def _body() -> dict[str, Any]:
    picture = {"type": "string", "format": "binary"}
    many = {"type": "object", "required": ["files"], "properties": {"files": {"type": "array", "items": picture}}}
    content = {"multipart/form-data": {"schema": many}, "image/*": {"schema": picture}}
    return {"required": True, "content": content}


def _refusals() -> dict[int | str, dict[str, Any]]:
    said = {
        400: "Not to be understood: no file, a broken form, a wrong `topk`.",
        401: "The token is missing or wrong.",
        408: "The body came too slowly.",
        413: "The body is too large.",
        415: "Neither a form nor a picture.",
        503: "The server is busy; `Retry-After` says when to try again.",
    }
    return {status: {"model": Refusal, "description": text} for status, text in said.items()}


def _status_routes(app: FastAPI, served: Served) -> None:
    def health() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    def ready() -> JSONResponse:
        """Whether requests are welcome: 503 while the server drains."""
        status = (503, "draining") if served.state.draining else (200, "ready")
        return JSONResponse({"status": status[1]}, status[0], TRY_AGAIN if served.state.draining else None)

    def model() -> Response:
        """What answers: classes, preprocessing, weights, and how good it is."""
        return Response(to_json(served.about), media_type="application/json")

    def metrics() -> PlainTextResponse:
        """Counters in Prometheus' text format."""
        return PlainTextResponse(served.metrics.text(), media_type="text/plain; version=0.0.4")

    for route in (health, ready, model, metrics):
        app.get(f"/{route.__name__}", response_model=None, response_description="As said above.")(in_loop(route))


def in_loop(route: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    """The same as a coroutine: FastAPI would hand so little work to a thread."""

    async def call() -> Any:
        return route()

    call.__name__, call.__doc__ = route.__name__, route.__doc__
    return call


def _pages(app: FastAPI) -> None:
    folder = files("finetune.serve") / "page"
    contents = {name: (folder / name).read_bytes() for name in (*PAGE, "index.html")}
    template = Environment(autoescape=True).from_string((folder / "docs.html.j2").read_text("utf-8"))

    async def index() -> HTMLResponse:
        return HTMLResponse(contents["index.html"])

    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(template.render(api=app.openapi(), base=request.base_url))

    async def part(name: str) -> Response:
        if name not in PAGE:
            raise HTTPException(404)
        return Response(contents[name], media_type=PAGE[name])

    app.get("/", include_in_schema=False)(index)
    app.get("/docs", include_in_schema=False)(docs)
    app.get("/page/{name}", include_in_schema=False)(part)


def _answer_errors(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, Refused):
            return refusal(error.status, error.reason, TRY_AGAIN if error.status == 503 else None)
        if isinstance(error, QueueFull):
            return refusal(503, "too many pictures are waiting; try again", TRY_AGAIN)
        if isinstance(error, HTTPException):
            reason = {404: "no such path: see /docs", 405: "not with this method: see /docs"}
            return refusal(
                error.status_code, reason.get(error.status_code, str(error.detail)), dict(error.headers or {})
            )
        if isinstance(error, RequestValidationError):
            problems = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
            return refusal(400, "; ".join(problems))
        if isinstance(error, ResourceError) or out_of_memory(error):
            return refusal(503, "the machine is short of memory; try again", TRY_AGAIN)
        return refusal(500, "a fault of the server")  # whoever runs it finds the trace on stderr, by uvicorn

    for kind in (Refused, QueueFull, HTTPException, RequestValidationError, ResourceError, Exception):
        app.add_exception_handler(kind, refused)
