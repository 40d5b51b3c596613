"""How a database runs the outbox's queries, as it explains it."""

from __future__ import annotations

from typing import Any, Mapping

from support.statement_cases import runs

#: Queries whose plans are shown.
EXPLAINED = (
    "CLAIM_PEEK",
    "CLAIM_SELECT",
    "STATUS",
    "STATUS_FOR_COMMIT",
    "PURGE_SELECT",
)


class Explaining:
    """A cursor that asks for a statement's plan in its place.

    :param explain: what the database wants before the statement.
    """

    def __init__(self, cursor: Any, explain: str) -> None:
        self._cursor = cursor
        self._explain = explain
        self.plan: list[str] = []

    @property
    def description(self) -> Any:
        return self._cursor.description

    def execute(self, text: str, values: Any = ()) -> None:
        self._cursor.execute(self._explain + text, values)

    def fetchall(self) -> Any:
        names = [column[0] for column in self._cursor.description]
        for record in self._cursor.fetchall():
            step = dict(zip(names, record))
            # The estimate of rows is left out: it differs with the table.
            self.plan.append(
                str(step["detail"])
                if "detail" in step
                else f"{step['table']}: {step['type']} {step['key']}, {step['Extra']}"
            )


def plans(outbox: Any, finished: int, explain: str) -> dict[str, list[str]]:
    """The plan of each query in a table with so many finished rows."""
    entries = {state: finished for state in (0, 1, 2)}
    found: dict[str, list[str]] = {}
    with outbox._database.session() as connection:
        cursor = connection.cursor()
        lock = outbox._claims._order.locking(cursor)
        for run in runs(outbox, entries, lock):
            if run.name in EXPLAINED:
                explaining = Explaining(cursor, explain)
                run.on(explaining)
                found[run.name] = explaining.plan
        connection.rollback()
    return found


def show_plans(outboxes: Mapping[int, Any], explain: str) -> None:
    """Print the plans in the first, and where those in another are others.

    :param outboxes: by the number of finished rows in each.
    """
    found = {count: plans(each, count, explain) for count, each in outboxes.items()}
    first, *others = found
    for name, steps in found[first].items():
        print(f"  {name}: {'; '.join(steps)}")
        for count in others:
            if found[count][name] != steps:
                print(f"    with {count}: {'; '.join(found[count][name])}")
