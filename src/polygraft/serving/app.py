"""The addresses of the server: the page, the API, and what each does. docs/serve.md describes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from polygraft.errors import PolygraftError
from polygraft.serving import limits, page
from polygraft.serving.desk import Desk, Made
from polygraft.serving.guard import COOKIE, Gate, refused
from polygraft.serving.limits import Refusal, Turns
from polygraft.serving.messages import FileRequest, TextAnswer, TextRequest, TextResult, Wish, WrittenText, reading
from polygraft.serving.openapi import description
from polygraft.serving.shelf import ServedModel
from polygraft.serving.uploads import MEDIA_TYPES, SentFile, assert_taken, read_upload
from polygraft.settings import Generate, Serve

T = TypeVar("T")
LOGIN_BYTES = 10_000
GONE = Refusal(499, "The client has gone.")  # which nobody hears


class Service:
    """What is behind the addresses."""

    def __init__(self, models: Mapping[str, ServedModel], settings: Serve, gate: Gate) -> None:
        self.settings, self.gate = settings, gate
        self.desks = {name: Desk(model, settings.per_device_eval_batch_size) for name, model in models.items()}
        half = max(1, settings.max_waiting // 2)
        self.texts = Turns(settings.max_waiting, half, "requests")
        self.files = Turns(limits.FILES, limits.FILES_PER_CLIENT, "files")
        self.described = [page.describe(model) for model in models.values()]
        self.html = page.main_page(self.described, settings)
        routes = [
            Route("/", self.main),
            Route("/health", self.health),
            Route("/openapi.json", self.openapi),
            Route("/api/models", self.models),
            Route("/api/generate", self.generate, methods=["POST"]),
            Route("/api/files", self.file, methods=["POST"]),
            Route("/login", self.login, methods=["GET", "POST"]),
            *(Route(f"/{name}", _constant(*kept)) for name, kept in page.STATIC.items()),
        ]
        handlers: Any = {Refusal: _on_refusal, HTTPException: _on_http, Exception: _on_failure}
        self.app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self.lifespan)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Have all models work while the server runs."""
        self.tasks = [asyncio.create_task(desk.work()) for desk in self.desks.values()]
        try:
            yield
        finally:
            for task, desk in zip(self.tasks, self.desks.values(), strict=True):
                task.cancel()
                desk.close()

    async def main(self, request: Request) -> Response:
        return HTMLResponse(self.html)

    async def health(self, request: Request) -> Response:
        """Whether all models work."""
        if any(task.done() for task in self.tasks):
            raise Refusal(503, "a model has ended; the server's log has more.")
        return JSONResponse({"status": "ok"})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(description(self.settings))

    async def models(self, request: Request) -> Response:
        return JSONResponse([one.model_dump() for one in self.described])

    async def login(self, request: Request) -> Response:
        """Take the token from a form, and give the browser a cookie in its place."""
        if request.method != "POST" or not self.gate.token:
            return _login_page() if self.gate.token else RedirectResponse("/", 303)
        _assert_type(request, "application/x-www-form-urlencoded")
        body = await _body(request, LOGIN_BYTES)
        (token,) = parse_qs(body.decode(errors="replace")).get("token", [""])[:1]
        if not self.gate.knows(token.strip()):
            return _login_page(wrong=True)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, self.gate.session, httponly=True, samesite="strict")
        return response

    async def generate(self, request: Request) -> Response:
        """Outputs for the texts of a JSON request."""
        _assert_type(request, "application/json")
        with self.texts.taken(_client(request)):
            most = max(limits.JSON_BYTES, limits.JSON_BYTES_PER_CHARACTER * self.settings.max_text_characters)
            wish = reading(TextRequest, await _body(request, most))
            wish.assert_small(self.settings)
            desk, languages, settings = self._chosen(wish)
            asked = desk.ask(wish.texts, languages, settings, limits.WAIT_SECONDS)
            made, seconds = await _while_connected(request, asked)
        source, target = languages
        results = [_result(one) for one in made]
        answer = TextAnswer(
            model=desk.model.name, source_lang=source, target_lang=target, seconds=round(seconds, 3), results=results
        )
        return JSONResponse(answer.model_dump())

    async def file(self, request: Request) -> Response:
        """The rows of a file with their outputs, in the file's format, as they are made."""
        most = int(self.settings.max_file_megabytes * 1e6)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.files.taken(_client(request)))
                wish = reading(FileRequest, _query(request), strict=False)
                assert_taken(wish)
                desk, languages, settings = self._chosen(wish)
            except Refusal:
                await _body(request, most, keep=False)
                raise
            body = await _body(request, most)
            upload = await asyncio.to_thread(read_upload, body, wish, self.settings)
            turn = stack.pop_all()
        head = {
            "Content-Disposition": f'attachment; filename="outputs.{wish.format}"',
            "X-Rows": str(len(upload.rows)), "X-Skipped-Rows": str(upload.skipped),
        }  # fmt: skip
        content = self._outputs(upload, desk, languages, settings)
        return Streamed(content, turn, media_type=MEDIA_TYPES[wish.format], headers=head)

    async def _outputs(
        self, upload: SentFile, desk: Desk, languages: tuple[str, str], settings: Generate
    ) -> AsyncIterator[bytes]:
        writer = upload.writer(settings.num_return_sequences)
        for part in upload.parts(self.settings.per_device_eval_batch_size):
            made, _ = await desk.ask([text for _, text in part], languages, settings)
            yield writer.written(part, [one.outputs for one in made])
        yield writer.rest()

    def _chosen(self, wish: Wish) -> tuple[Desk, tuple[str, str], Generate]:
        """The model that a request names, the languages and how outputs are made."""
        name = next(iter(self.desks)) if wish.model is None else wish.model
        if name not in self.desks:
            raise Refusal(422, f"model: there is none of that name. Those served: {', '.join(self.desks)}.")
        desk = self.desks[name]
        try:
            languages = desk.model.languages(wish.source_lang, wish.target_lang)
        except PolygraftError as error:
            raise Refusal(422, str(error)) from None
        return desk, languages, wish.settings(self.settings)


class Streamed(StreamingResponse):
    """A stream that keeps its turn until it ends, however it ends."""

    def __init__(self, content: AsyncIterator[bytes], turn: contextlib.ExitStack, **how: Any) -> None:
        super().__init__(content, **how)
        self.turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.turn:
            await super().__call__(scope, receive, send)


def _login_page(wrong: bool = False) -> Response:
    """The page that asks for the token: without a referrer its form would have no Origin, and be refused."""
    return HTMLResponse(page.login_page(wrong), 401 if wrong else 200, {"Referrer-Policy": "same-origin"})


def _result(made: Made) -> TextResult:
    outputs = [
        WrittenText(text=text, tokens=tokens, characters=len(text))
        for text, tokens in zip(made.outputs, made.output_tokens, strict=True)
    ]
    return TextResult(outputs=outputs, source_tokens=made.source_tokens, cut=made.cut)


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _assert_type(request: Request, wanted: str) -> None:
    """Raise Refusal for a body of another type, or a compressed one."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "A body must not be compressed.")
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != wanted:
        raise Refusal(415, f"Content-Type: {wanted} was expected.")


def _query(request: Request) -> dict[str, str]:
    """The parameters in an address, each once; of a file's the type of its body is read as well."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "A body must not be compressed.")
    pairs = request.query_params.multi_items()
    if len({name for name, _ in pairs}) < len(pairs):
        raise Refusal(422, "a parameter is given twice.")
    return dict(pairs)


async def _body(request: Request, most: int, keep: bool = True) -> bytes:
    """Read the body.

    What is too large, or not to be kept, is read to its end, if that is not far, and dropped: many clients hear no
    answer before that.

    Raises:
        Refusal: larger than `most` bytes, or too slow.
    """
    body, length = bytearray(), 0
    try:
        async with asyncio.timeout(limits.BODY_SECONDS):
            async for part in request.stream():
                length += len(part)
                if length <= most:
                    body += part if keep else b""
                elif length > limits.READ_TO_THE_END * most:
                    break
    except ClientDisconnect:
        raise GONE from None
    except TimeoutError:
        raise Refusal(408, f"The request did not arrive within {limits.BODY_SECONDS:.0f} s.") from None
    if length > most:
        raise Refusal(413, f"The body is larger than {most:,} bytes.")
    return bytes(body)


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """Do work as long as the client is there to take its result."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body is read, so that nothing but the end is to come
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GONE
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def _constant(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


async def _on_refusal(request: Request, refusal: Refusal) -> Response:
    return refused(refusal)


async def _on_http(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _on_failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "This should not have happened; the server's log has more."}, 500)
