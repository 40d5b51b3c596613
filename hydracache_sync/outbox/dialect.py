"""Statements in the words of one database, and for the names of its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

from hydracache_sync.outbox.statements import (
    ANY_PAUSED_BIT,
    DUE,
    DUE_BIT,
    INSERT,
    Present,
)

_PARAMETER = re.compile(r":([a-z][a-z0-9_]*)")


@dataclass(frozen=True)
class Dialect:
    """The words that differ between databases; everything else is shared."""

    #: Milliseconds of the database's clock. ``:now`` is bound from Python, right
    #: where the database has no clock but the host's.
    now: str
    #: Stands for a parameter.
    marker: str
    #: Appended to an insert so that rows that are there already are left alone.
    on_conflict: str
    #: The same, so that they are carried again, with ``{now}`` in it; None where that
    #: takes a statement of its own, ``CARRY_AGAIN``.
    carry_again: str | None
    #: Appended to an insert, before assignments to the row that is there by ``{key}``.
    on_present: str
    #: Whether a row's error has ``:pattern`` in it, case and all.
    matches: str
    #: Joins texts and keeps the last ``MAX_HISTORY`` of them: what comes before them,
    #: between two, and behind.
    kept: tuple[str, str, str]
    #: Turns a text in which * stands for any text into such a pattern.
    pattern: Callable[[str], Any]
    #: Begins a transaction that may write.
    begin: str
    #: Whether ids are written into the text of a statement. PyMySQL does that with
    #: parameters anyway, one by one, in Python; SQLite prepares each text again.
    ids_in_text: bool
    #: Turns text that identifies into what is stored.
    encode: Callable[[str], Any]

    @property
    def binds_clock(self) -> bool:
        return self.now == ":now"


class Statements:
    """The statements in one dialect and for one table, rendered once each.

    Named parameters are sent by position: binding by name takes as long as the work of
    a statement with hundreds of ids.
    """

    def __init__(self, dialect: Dialect, table: str) -> None:
        self._dialect = dialect
        self._table = table
        self._insert, self._insert_traced = (
            INSERT.format(table=table, more=more, rows="\0", on_conflict="").split("\0")
            for more in ("", ", traceparent")
        )
        #: Text, and the names of the parameters before and after the ids.
        self._prepared: dict[
            tuple[str, int | None], tuple[str, tuple[str, ...], tuple[str, ...]]
        ] = {}

    def run(
        self,
        cursor: Any,
        template: str,
        params: Mapping[str, Any],
        ids: Sequence[Any] = (),
    ) -> None:
        """Execute ``template`` with ``params``, and ``ids`` in place of ``{ids}``."""
        numbered = bool(ids) and type(ids[0]) is int
        if numbered and self._dialect.ids_in_text:
            text, before, after = self._prepare(template, None)
            text = text.replace("{ids}", ", ".join(map(str, ids)))
            ids = ()
        elif numbered and list(ids) == list(range(ids[0], ids[0] + len(ids))):
            # Mostly, in a backlog of one namespace. SQLite makes a table of a list.
            text, before, after = self._prepare(template, None)
            text = text.replace("in ({ids})", "between ? and ?")
            ids = ids[0], ids[-1]
        else:
            text, before, after = self._prepare(template, len(ids))
        values = [params[name] for name in before]
        values += ids
        values += [params[name] for name in after]
        cursor.execute(text, values)

    def text(self, template: str) -> str:
        """Return the text of ``template``, which has no ids."""
        return self._prepare(template, 0)[0]

    def insert(
        self,
        rows: str,
        present: Present,
        *,
        now: str = "",
        traceparent: str | None = None,
    ) -> str:
        """Return the INSERT of ``rows``, which are in SQL, each in parentheses.

        :param present: what becomes of rows whose key is there already.
        :param now: the clock's milliseconds in SQL, for those that are carried again.
        :param traceparent: the same for the trace context, which ``rows`` end with;
            None if they do not.
        """
        # A producer that is not traced pays nothing and needs no right on the column.
        before, after = self._insert if traceparent is None else self._insert_traced
        again = self._dialect.carry_again
        if present is Present.IMPOSSIBLE:
            on_conflict = ""
        elif present is Present.CARRIED_AGAIN and again is not None:
            on_conflict = again.format(
                now=now, traceparent=traceparent or "null", kept=self._dialect.kept
            )
        else:
            on_conflict = self._dialect.on_conflict
        return f"{before}{rows}{on_conflict}{after}"

    def due(self, namespaces: int) -> str:
        """Return the question which of ``namespaces`` have a row due.

        The answer has a bit for each, the first the lowest, and one that says whether
        any namespace is paused. Each takes the namespace, and the clock twice where it
        is bound.
        """
        prepared = self._prepared.get(("due", namespaces))
        if prepared is None:
            marker = self._dialect.marker
            now = marker if self._dialect.binds_clock else self._dialect.now
            bits = [
                DUE_BIT.format(bit=1 << n, table=self._table, now=now, p=marker)
                for n in range(namespaces)
            ]
            bits.append(ANY_PAUSED_BIT.format(bit=1 << namespaces, table=self._table))
            text = DUE.format(bits="\n+ ".join(bits))
            prepared = self._prepared["due", namespaces] = (text, (), ())
        return prepared[0]

    def _prepare(
        self, template: str, ids: int | None
    ) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Return the text with markers for ``ids`` ids; None leaves ``{ids}`` in it."""
        # Two threads may prepare the same text at once; either result will do.
        prepared = self._prepared.get((template, ids))
        if prepared is None:
            dialect = self._dialect
            names: list[list[str]] = []
            texts: list[str] = []
            for part in template.split("{ids}"):
                part = part.format(
                    # Last of all: a database's name may look like a parameter.
                    table="{table}",
                    now=dialect.now,
                    kept=dialect.kept,
                    on_paused=dialect.on_present.format(key="namespace"),
                    on_heartbeat=dialect.on_present.format(key="id"),
                    on_worker=dialect.on_present.format(key="owner"),
                    matches=dialect.matches,
                )
                names.append(_PARAMETER.findall(part))
                part = _PARAMETER.sub(lambda match: dialect.marker, part)
                texts.append(part.replace("{table}", self._table))
            markers = "{ids}" if ids is None else ", ".join([dialect.marker] * ids)
            text = markers.join(texts)
            after = names[1] if len(names) > 1 else []
            prepared = text, tuple(names[0]), tuple(after)
            self._prepared[template, ids] = prepared
        return prepared
