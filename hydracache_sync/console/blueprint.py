"""The console as a blueprint of Flask."""

from __future__ import annotations

import pkgutil
from typing import Any, Iterable, Mapping, Sequence

from flask import Blueprint, Response, current_app, jsonify, request, url_for
from werkzeug.exceptions import HTTPException

from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.console.changes import Changes
from hydracache_sync.console.guard import FIELD, Authenticate, Guard, operator
from hydracache_sync.console.page import page_url, rendered
from hydracache_sync.console.sources import Source, sources_of, sources_of_app
from hydracache_sync.console.views import Views
from hydracache_sync.errors import ConfigurationError, OutboxError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool import PoolHealth
from hydracache_sync.printable import described, printable_logger, without_passwords
from hydracache_sync.worker.worker import OutboxWorker

logger = printable_logger(__name__)

_STYLES = pkgutil.get_data("hydracache_sync.console", "static/console.css")


def console_blueprint(
    outboxes: InvalidationOutbox | Mapping[str, InvalidationOutbox] | None = None,
    *,
    authenticate: Authenticate | None = None,
    writable: bool = False,
    namespaces: Iterable[str] = (),
    workers: Sequence[OutboxWorker] = (),
    caches: Sequence[TaggedCache] = (),
    logout: str | None = None,
    name: str = "hydracache_console",
) -> Blueprint:
    """Return the console, to be registered with a ``url_prefix``.

    :param outboxes: one, or several by the names that the pages give them. None for
        what the ``HydraCache`` of the app has: its outbox, worker, cache and pool.
    :param authenticate: called for each request, without arguments; returns the name of
        the operator, at most 200 bytes, None for nobody, or a response, as a redirect
        to the app's login. May ``abort``. Without it the blueprint cannot be
        registered: there is no console that is open to everybody.
    :param writable: let operators retry, discard, drain, invalidate, flush, pause and
        resume. The app needs a ``SECRET_KEY`` then, which its forms are signed with.
    :param namespaces: shown also while they have no row.
    :param workers: of these outboxes: what drains a batch by hand, and knows the nodes.
    :param caches: of this process, for their hit rates.
    :param logout: endpoint that a button "Log out" posts to.
    :param name: of the blueprint.
    :raises ConfigurationError, TypeError: ``outboxes`` are none; a worker works on
        another one. At the registration: there is no ``authenticate``, no
        ``SECRET_KEY``, or no ``HydraCache`` where one is needed.
    """
    sources = None
    if outboxes is not None:
        sources = sources_of(outboxes, namespaces, workers, caches)
    console = _Console(sources, authenticate, writable, logout)
    blueprint = Blueprint(name, __name__)
    blueprint.record(console.check)
    blueprint.before_request(console.guard.let_in)
    blueprint.after_request(console.guard.finish)
    blueprint.register_error_handler(HTTPException, console.refused)
    blueprint.register_error_handler(OutboxError, console.failed)
    views, changes = console.views, console.changes
    for path, view in (
        ("/", views.overview),
        ("/rows", views.rows),
        ("/row", views.row),
        ("/act", views.act),
        ("/confirm", changes.confirm),
        ("/healthz", console.healthz),
        ("/console.css", console.styles),
    ):
        blueprint.add_url_rule(path, view.__name__, view, methods=["GET"])
    blueprint.add_url_rule("/do/<name>", "do", changes.do, methods=["POST"])
    return blueprint


class _Console:
    """One console: its parts, and what is no page."""

    def __init__(
        self,
        sources: dict[str, Source] | None,
        authenticate: Authenticate | None,
        writable: bool,
        logout: str | None,
    ) -> None:
        self._given = sources
        self._authenticate = authenticate
        self._logout = logout
        self.guard = Guard(authenticate or (lambda: None), writable=writable)
        self.views = Views(self.sources, self.render)
        self.changes = Changes(self.sources, self.render, self.guard)

    def check(self, state: Any) -> None:
        """At the registration: refuse what would be open, or could not work."""
        if not callable(self._authenticate):
            raise ConfigurationError(
                "the console is closed: give console_blueprint() authenticate=, a"
                " function that returns the name of the operator who sends the"
                " request, or None"
            )
        if self.guard.writable and not state.app.secret_key:
            raise ConfigurationError(
                "a writable console signs its forms: set the app's SECRET_KEY before"
                " it is registered"
            )
        if self._given is None:
            sources_of_app(state.app)

    def sources(self) -> Mapping[str, Source]:
        return sources_of_app(current_app) if self._given is None else self._given

    def render(self, template: str, **values: Any) -> str:
        """Render a page with what each of them has."""
        done = request.args.get("done", "")
        if done and not self.guard.is_sealed(done, request.args.get("seal", "")):
            done = ""  # a link of somebody else's
        return rendered(
            template,
            url=page_url,
            who=operator(),
            writable=self.guard.writable,
            token=self._field,
            logout=self._logout and url_for(self._logout),
            done=done,
            **values,
        )

    def _field(self) -> tuple[str, str]:
        return FIELD, self.guard.token()

    # What is no page

    def healthz(self) -> tuple[Response, int]:
        """For a load balancer: whether the outboxes answer, and the pool works.

        Open to everybody, so it says states and nothing else.
        """
        status, outboxes = "ok", []
        for source in self.sources().values():
            pool = source.pool()
            threads = None if pool is None else pool.health().status
            try:
                source.outbox.paused()
                answers = True
            except OutboxError as exc:
                answers = False
                logger.debug("health: %s", described(exc))
            outboxes.append({"answers": answers, "pool": threads})
            if not answers:
                status = "away"
            elif threads not in (None, *PoolHealth.FINE) and status == "ok":
                status = str(threads)
            elif threads == "waiting" and status == "ok":
                status = "waiting"
        code = 200 if status in PoolHealth.FINE else 503
        return jsonify(status=status, outboxes=outboxes), code

    def styles(self) -> Response:
        return Response(_STYLES, content_type="text/css; charset=utf-8")

    def refused(self, exc: HTTPException) -> Any:
        if exc.response is not None or (exc.code or 500) < 400:
            return exc  # a response of the app's own: a redirect to its login
        response = exc.get_response()
        response.set_data(self._error(exc.name, exc.description or ""))
        response.content_type = "text/html; charset=utf-8"
        return response

    def failed(self, exc: OutboxError) -> tuple[str, int]:
        logger.warning("console: %s", described(exc))
        text = without_passwords(described(exc))
        return self._error("The outbox does not answer", text), 503

    def _error(self, title: str, text: str) -> str:
        return rendered("error.html", url=page_url, title=title, text=text)
