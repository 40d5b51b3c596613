"""A Django project on MySQL: runs its views and prints what each has left behind.

A program, because Django takes its settings and its driver once in a process::

    django_on_mysql.py DRIVER JSON

:param DRIVER: "mysqlclient", or "PyMySQL" in its place.
:param JSON: the arguments of an outbox on an empty database.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Callable

import django
import pymysql
from django.conf import settings

driver, options = sys.argv[1], json.loads(sys.argv[2])
if driver == "PyMySQL":
    pymysql.install_as_MySQLdb()
login = "{user}:{password}@{host}:{port}/{database}".format(**options)

settings.configure(
    SECRET_KEY="not secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.mysql",
            "HOST": options["host"],
            "PORT": options["port"],
            "USER": options["user"],
            "PASSWORD": options["password"],
            "NAME": options["database"],
            "CONN_MAX_AGE": 60,
        }
    },
    MIDDLEWARE=[f"{__name__}.middleware"],
    HYDRACACHE_OUTBOX=f"mysql://{login}",
    HYDRACACHE_NAMESPACE="shop",
    HYDRACACHE_MEMCACHED="127.0.0.1:1",
    HYDRACACHE_POOL="none",
)
django.setup()

from django.db import IntegrityError, connection, transaction  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402

from hydracache_sync.integrations.django import HydraCache  # noqa: E402

hydracache = HydraCache()
middleware = hydracache.middleware
committed: list[str] = []


def execute(statement: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall()) if cursor.description else []


def rename(name: str) -> None:
    execute("update item set name = %s where id = 1", name)
    hydracache.invalidate_entity("item", name)


def commits() -> None:
    with hydracache.atomic():
        rename("after")


def raises() -> None:
    with hydracache.atomic():
        rename("never")
        raise ZeroDivisionError


def rolls_back_a_savepoint() -> None:
    with hydracache.atomic():
        rename("after")
        try:
            with hydracache.atomic():
                rename("never")
                execute("insert into item values (1, 'twice')")
        except IntegrityError:
            pass


def rolls_back_what_is_around_it() -> None:
    with transaction.atomic():
        with hydracache.atomic():
            rename("never")
        transaction.set_rollback(True)


def writes_by_hand() -> None:
    with transaction.atomic():
        rename("after")
        hydracache.write(connection.connection)
        transaction.on_commit(lambda: committed.append("after"))


def writes_outside_of_a_block() -> None:
    rename("after")
    try:
        hydracache.write(connection.connection)
    finally:
        hydracache.discard()


def commits_in_its_midst() -> None:
    with hydracache.atomic():
        rename("after")
        execute("alter table item comment = 'new'")
        rename("never")
        raise ZeroDivisionError


def loses_its_connection() -> None:
    with hydracache.atomic():
        rename("never")
        [(number,)] = execute("select connection_id()")
        beside = pymysql.connect(**options)
        beside.cursor().execute(f"kill {number}")
        beside.close()


VIEWS = [
    commits,
    raises,
    rolls_back_a_savepoint,
    rolls_back_what_is_around_it,
    writes_by_hand,
    writes_outside_of_a_block,
    commits_in_its_midst,
    loses_its_connection,
]


def answer(request: Any, name: str) -> HttpResponse:
    view: Callable[[], None] = globals()[name]
    try:
        view()
    except Exception as exc:
        return HttpResponse(type(exc).__name__)
    return HttpResponse("done")


urlpatterns = [path("<str:name>/", answer)]


def seen(name: str) -> tuple[str, str, list[Any]]:
    """The answer of a view, the durable name, and the durable rows."""
    execute("delete from hydracache_outbox")
    execute("replace into item values (1, 'before')")
    response = Client().get(f"/{name}/")
    [(kept,)] = execute("select name from item")
    rows = [row.intent and row.intent.value for row in hydracache.outbox.rows("shop")]
    return response.content.decode(), kept, rows


hydracache.outbox.install_schema()
execute("create table item (id integer primary key, name varchar(40)) engine innodb")
used = type(connection.connection).__module__.partition(".")[0]
result = {view.__name__: seen(view.__name__) for view in VIEWS}
connection.close()
hydracache.outbox.close()
print(json.dumps([used, result, committed]))
