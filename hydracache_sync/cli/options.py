"""Settings as options of commands, and what commands make of them.

A command says what it works on, ``@with_outbox`` or ``@with_workers``, and is given it
open; the options, their variables and their checks come along.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Sequence, TypeVar

import click
from click.core import ParameterSource

from hydracache_sync.app import build, contradictions, settings
from hydracache_sync.app.setting import Setting
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.intents import MAX_REASON
from hydracache_sync.keys import checked_namespace, checked_text
from hydracache_sync.outbox.arguments import MAX_ERROR
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.receipts import CommitPosition
from hydracache_sync.wording.moments import parse_duration
from hydracache_sync.worker.worker import OutboxWorker

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    # Not generic in click 8.1, the last one for Python 3.9.
    _ParamType = click.ParamType


class _Text(_ParamType):
    """The text of a setting, read by the setting itself."""

    def __init__(self, setting: Setting) -> None:
        self.name = setting.name
        self._setting = setting

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if not isinstance(value, str):
            return value  # the default
        if self._setting.secret is not None and self._setting.secret(value):
            self._refuse_typed(param, ctx)
        try:
            return self._setting.parse(value)
        except (ValueError, ConfigurationError) as exc:
            self.fail(str(exc), param, ctx)

    def get_missing_message(self, *args: Any, **kwargs: Any) -> str | None:
        of_app = "`flask hydracache` and `manage.py hydracache` take it from their app"
        return of_app if self._setting is settings.OUTBOX else None

    def _refuse_typed(
        self, param: click.Parameter | None, ctx: click.Context | None
    ) -> None:
        if param is None or param.name is None or ctx is None:
            return
        if ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
            self.fail(
                "a password on the command line can be read by every user of this"
                f" machine: put it into the variable {self._setting.variable}",
                param,
                ctx,
            )

    def split_envvar_value(self, rv: str) -> list[str]:
        return [part.strip() for part in rv.split(",") if part.strip()]


#: Where a context keeps the settings that an app has in its own config, as text. They
#: go before the environment: what the app writes to is what is to be drained. None is
#: what has no text, because the app made an object of its own.
APP_TEXTS = "hydracache_sync.app_texts"

#: Settings of tables and rings, and the setting beside which each has a meaning. If an
#: app does not have one, its commands do not take it from the environment either: they
#: would publish rows to a ring that the app does not read.
PLACES = {
    settings.TABLE: settings.OUTBOX,
    **{
        each: settings.MEMCACHED
        for each in (settings.RING, settings.WEIGHTS, *build.OF_PREVIOUS)
    },
}


def only_of_environment(
    texts: Mapping[str, str | None], environ: Mapping[str, str]
) -> list[Setting]:
    """Return those of ``PLACES`` that ``environ`` has, and the app of ``texts`` lacks.

    :param texts: as :data:`APP_TEXTS` keeps them.
    """
    return [
        each
        for each, beside in PLACES.items()
        if each.variable in environ
        and each.name not in texts
        and texts.get(beside.name)
    ]


class _Option(click.Option):
    """Names its variable in complaints, which click 8.1 leaves out."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        if self._is_object(ctx):
            return None
        texts: Mapping[str, str | None] = ctx.meta.get(APP_TEXTS, {})
        if self.name in {each.name for each in only_of_environment(texts, os.environ)}:
            return None
        return texts.get(self.name or "") or super().resolve_envvar_value(ctx)

    def get_error_hint(
        self, ctx: click.Context | None, *args: Any, **kwargs: Any
    ) -> str:
        if ctx is not None and self._is_object(ctx):
            return f"'{self.opts[0]}' ({self.envvar} of the app is an object)"
        hint = super().get_error_hint(ctx, *args, **kwargs)
        if isinstance(self.envvar, str) and self.envvar not in hint:
            hint += f" (env var: '{self.envvar}')"
        return hint

    def _is_object(self, ctx: click.Context) -> bool:
        return ctx.meta.get(APP_TEXTS, {}).get(self.name, "") is None


def setting_option(setting: Setting, *, required: bool = False) -> Callable[[F], F]:
    """The option of ``setting``, its variable included."""
    more: dict[str, Any] = {}
    if setting.default is not None:
        # A default of None would count as a value: nothing would be missing.
        more["default"] = setting.default
        more["show_default"] = True
        if isinstance(setting.default, bool):
            more["show_default"] = "yes" if setting.default else "no"
    return click.option(
        setting.option,
        setting.name,
        cls=_Option,
        type=_Text(setting),
        metavar=setting.metavar,
        multiple=setting.several,
        required=required,
        envvar=setting.variable,
        show_envvar=True,
        help=setting.meaning,
        **more,
    )


def is_given(ctx: click.Context, setting: Setting) -> bool:
    """Whether the user of a command has set ``setting``, be it to its default."""
    return ctx.get_parameter_source(setting.name) not in (None, ParameterSource.DEFAULT)


def in_order(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Apply ``options`` so that the help lists them in this order."""

    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


namespace_option = setting_option(settings.NAMESPACE, required=True)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object."
)

#: For lists, which may be long.
json_lines_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a line."
)


class _Checked(_ParamType):
    """Text that the outbox takes, checked before anything is done."""

    def __init__(self, name: str, check: Callable[[str], object]) -> None:
        self.name = name
        self._check = check

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        try:
            self._check(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        return value


REASON = _Checked(
    "reason", lambda text: checked_text("reason", text, maximum=MAX_REASON)
)
POSITION = _Checked("position", CommitPosition)
#: Not empty: what a script's unset variable gives would choose all there are.
ERROR = _Checked(
    "error", lambda text: checked_text("error", text, minimum=1, maximum=MAX_ERROR)
)

#: Up to the largest that a database has.
ROW_ID = click.IntRange(0, 2**63 - 1)

#: Which rows of many are shown: ``limit`` of those behind the one called ``after``.
page_options = in_order(
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        default=50,
        show_default=True,
        help="Show so many at most.",
    ),
    click.option(
        "--after",
        type=ROW_ID,
        default=0,
        metavar="ID",
        help="Begin behind this one: the last of the page before.",
    ),
)

newest_option = click.option(
    "--newest", is_flag=True, help="The last ones, the latest at the top: no --after."
)


def check_page(newest: bool, after: int) -> None:
    """:raises click.UsageError: --newest beside --after."""
    if newest and after:
        raise click.UsageError("--newest begins at the end, --after does not")


namespaces_argument = click.argument(
    "namespaces",
    metavar="NAMESPACE...",
    nargs=-1,
    required=True,
    type=_Checked("namespace", checked_namespace),
)


class _Duration(_ParamType):
    """An age as people say it; seconds inside."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse_duration(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


DURATION = _Duration()


def with_settings(*of: Setting) -> Callable[[F], F]:
    """Call the command with ``values``: what ``of`` are set to, by setting."""

    def decorate(command: F) -> F:
        @in_order(*map(setting_option, of))
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            values = {each: given.pop(each.name) for each in of}
            return command(values=values, **given)

        return run  # type: ignore[return-value]

    return decorate


def with_outbox(command: F) -> F:
    """Call ``command`` with ``outbox``, closed afterwards."""

    @in_order(
        *(
            setting_option(each, required=each is settings.OUTBOX)
            for each in build.OF_OUTBOX
        )
    )
    @functools.wraps(command)
    def run(**given: Any) -> Any:
        values = {each: given.pop(each.name) for each in build.OF_OUTBOX}
        outbox = build.outbox(values)
        try:
            return command(outbox=outbox, **given)
        finally:
            outbox.close()

    return run  # type: ignore[return-value]


#: What is made into workers, in the order of the help.
OF_WORKERS = (
    *build.OF_STORE,
    *build.OF_PREVIOUS,
    *build.OF_WORKER,
    settings.TRACING,
)


def with_workers(command: F) -> F:
    """Call ``command`` with ``outbox`` and ``workers``, one for each namespace."""

    @with_outbox
    @in_order(
        namespace_option,
        *(
            setting_option(each, required=each is settings.MEMCACHED)
            for each in OF_WORKERS
        ),
        setting_option(settings.STRICT),
    )
    @functools.wraps(command)
    def run(
        *,
        outbox: InvalidationOutbox,
        namespace: tuple[str, ...],
        strict: tuple[str, ...],
        **given: Any,
    ) -> Any:
        values = {each: given.pop(each.name) for each in OF_WORKERS}
        with workers_of(values, outbox, namespace, strict) as workers:
            return command(outbox=outbox, workers=workers, **given)

    return run  # type: ignore[return-value]


@contextlib.contextmanager
def workers_of(
    values: Mapping[Setting, Any],
    outbox: InvalidationOutbox,
    namespaces: Sequence[str],
    strict: Sequence[str],
) -> Iterator[list[OutboxWorker]]:
    """Make a worker for each namespace; the block's end closes what they apply to.

    :param values: of :data:`OF_WORKERS`; memcached is among them.
    :raises click.UsageError: settings contradict each other.
    """
    for problem in contradictions.contradictions(
        values, lambda setting: setting.option
    ):
        raise click.UsageError(problem)
    for name in strict:
        # A slip of the pen would leave the namespace meant without its rule.
        if name not in namespaces:
            raise click.UsageError(
                f"--strict {name} is not among the namespaces: {', '.join(namespaces)}"
            )
    with contextlib.ExitStack() as stores:
        store = build.store(values)
        assert store is not None  # the callers see to it
        stores.callback(store.close)
        previous = build.previous_stores(values)
        for each in previous:
            stores.callback(each.close)
        workers = [
            build.worker(values, outbox, store, previous, name, strict=name in strict)
            # Each name once, in the order given.
            for name in dict.fromkeys(namespaces)
        ]
        build.trace(values, *workers)
        yield workers
