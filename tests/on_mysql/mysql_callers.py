"""The drivers that apps use, and what differs between them for a test."""

from __future__ import annotations

import abc
from collections import namedtuple
from decimal import Decimal
from typing import Any, Callable

import mysql.connector
import MySQLdb
import MySQLdb.constants.CLIENT
import MySQLdb.cursors
import pymysql
import pymysql.constants.CLIENT
import pymysql.constants.FIELD_TYPE
import pymysql.converters
from mysql_databases import Database


class Caller(abc.ABC):
    """An app that uses one driver."""

    name: str

    #: What its connections raise.
    error: type[Exception]

    #: Ways to begin a transaction: whether the connection autocommits before, and what
    #: the app does.
    beginnings: dict[str, tuple[bool, Callable[[Any], Any]]]

    #: Options of a connection that change what its cursors are and return.
    odd_options: dict[str, dict[str, Any]]

    #: What the library asks the server beyond its INSERT, in an open transaction.
    questions: tuple[str, ...] = ()

    @abc.abstractmethod
    def connect(
        self,
        database: Database,
        *,
        autocommit: bool = False,
        found_rows: bool = False,
        **options: Any,
    ) -> Any: ...

    def id_of(self, connection: Any) -> int:
        return int(connection.thread_id())

    def execute(self, connection: Any, statement: str) -> list[Any]:
        """Run a statement as the app would; return its rows."""
        cursor = connection.cursor()
        try:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            cursor.close()


def executing(*statements: str) -> Callable[[Any], None]:
    def execute(connection: Any) -> None:
        for statement in statements:
            cursor = connection.cursor()
            cursor.execute(statement)
            if cursor.description:
                cursor.fetchall()
            cursor.close()

    return execute


#: What begins a transaction in every driver.
BEGINNINGS: dict[str, tuple[bool, Callable[[Any], Any]]] = {
    "autocommit off": (False, lambda connection: None),
    "autocommit off, after a read": (False, executing("select * from app")),
    "autocommit off, BEGIN": (False, executing("begin")),
    "BEGIN": (True, executing("begin")),
    "BEGIN, after a read": (True, executing("begin", "select * from app")),
    "START TRANSACTION": (True, executing("start transaction")),
    "WITH CONSISTENT SNAPSHOT": (
        True,
        executing("start transaction with consistent snapshot"),
    ),
    "SET autocommit": (True, executing("set autocommit = 0")),
}


#: Encodes nothing as it should, and takes numbers for something else.
ODD_CONVERTERS = {
    **pymysql.converters.conversions,
    str: lambda value, mapping: "NULL",
    bytes: lambda value, mapping: "NULL",
    pymysql.constants.FIELD_TYPE.LONGLONG: Decimal,
    pymysql.constants.FIELD_TYPE.LONG: Decimal,
}


class Record:
    """Neither a sequence nor a mapping."""

    def __init__(self, values: Any) -> None:
        vars(self).update(values)


class RecordCursor(pymysql.cursors.DictCursor):
    """Makes of a row what some apps do: an object with attributes."""

    dict_type = Record


class NamedTupleCursor(MySQLdb.cursors.Cursor):
    def fetchall(self) -> Any:
        names = [column[0] for column in self.description or ()]
        record = namedtuple("record", names, rename=True)
        return tuple(record(*row) for row in super().fetchall())


class PyMySQLCaller(Caller):
    name = "PyMySQL"
    error = pymysql.Error
    beginnings = {
        **BEGINNINGS,
        "begin()": (True, lambda connection: connection.begin()),
        "autocommit()": (True, lambda connection: connection.autocommit(False)),
    }
    odd_options = {
        "DictCursor": {"cursorclass": pymysql.cursors.DictCursor},
        "SSCursor": {"cursorclass": pymysql.cursors.SSCursor},
        "SSDictCursor": {"cursorclass": pymysql.cursors.SSDictCursor},
        "objects": {"cursorclass": RecordCursor},
        "converters": {"conv": ODD_CONVERTERS},
        "bytes": {"use_unicode": False},
        "latin1": {"charset": "latin1"},
        "utf8": {"charset": "utf8"},
        "cp932": {"charset": "cp932"},
        "gbk": {"charset": "gbk"},
    }

    def connect(
        self,
        database: Database,
        *,
        autocommit: bool = False,
        found_rows: bool = False,
        **options: Any,
    ) -> Any:
        flags = pymysql.constants.CLIENT.FOUND_ROWS if found_rows else 0
        return database.connect(autocommit=autocommit, client_flag=flags, **options)


class MySQLClientCaller(Caller):
    name = "mysqlclient"
    error = MySQLdb.Error
    questions = (
        "savepoint hydracache_sync_probe",
        "release savepoint hydracache_sync_probe",
    )
    beginnings = {
        **BEGINNINGS,
        "begin()": (True, lambda connection: connection.begin()),
        "autocommit()": (True, lambda connection: connection.autocommit(False)),
    }
    odd_options = {
        "DictCursor": {"cursorclass": MySQLdb.cursors.DictCursor},
        "SSCursor": {"cursorclass": MySQLdb.cursors.SSCursor},
        "SSDictCursor": {"cursorclass": MySQLdb.cursors.SSDictCursor},
        "named tuples": {"cursorclass": NamedTupleCursor},
        "no converters": {"conv": {}},
        "bytes": {"use_unicode": False},
        "binary prefix": {"binary_prefix": True},
        "one statement at a time": {"multi_statements": False},
        "latin1": {"charset": "latin1"},
        "utf8": {"charset": "utf8"},
        "gbk": {"charset": "gbk"},
    }

    def connect(
        self,
        database: Database,
        *,
        autocommit: bool = False,
        found_rows: bool = False,
        **options: Any,
    ) -> Any:
        flags = MySQLdb.constants.CLIENT.FOUND_ROWS if found_rows else 0
        own = {"autocommit": autocommit, "client_flag": flags, "charset": "utf8mb4"}
        return MySQLdb.connect(**{**database.options, **own, **options})


class OddConverter(mysql.connector.conversion.MySQLConverter):
    """Spoils what is sent, and leaves what comes as it is: bytes."""

    def to_mysql(self, value: Any) -> Any:
        return value.upper() if hasattr(value, "upper") else value

    def quote(self, value: Any) -> Any:
        return b"NULL"

    def to_python(self, description: Any, value: Any) -> Any:
        return value


class ConnectorCaller(Caller):
    name = "mysql-connector-python"
    error = mysql.connector.Error
    pure = True
    beginnings = {
        **BEGINNINGS,
        "start_transaction()": (True, lambda c: c.start_transaction()),
        "start_transaction(isolation)": (
            True,
            lambda c: c.start_transaction(isolation_level="REPEATABLE READ"),
        ),
        "autocommit attribute": (True, lambda c: setattr(c, "autocommit", False)),
    }
    odd_options = {
        "buffered": {"buffered": True},
        "raw": {"raw": True},
        "raw and buffered": {"raw": True, "buffered": True},
        "bytes": {"use_unicode": False},
        "converter": {"converter_class": OddConverter},
        "warnings raise": {"raise_on_warnings": True},
        "warnings fetched": {"get_warnings": True},
        "consume results": {"consume_results": True},
        "latin1": {"charset": "latin1", "collation": "latin1_swedish_ci"},
        "gbk": {"charset": "gbk", "collation": "gbk_chinese_ci"},
    }

    def connect(
        self,
        database: Database,
        *,
        autocommit: bool = False,
        found_rows: bool = False,
        **options: Any,
    ) -> Any:
        flag = mysql.connector.ClientFlag.FOUND_ROWS
        own = {
            "autocommit": autocommit,
            "client_flags": [flag if found_rows else -flag],
            "charset": "utf8mb4",
            # The one that both servers have.
            "collation": "utf8mb4_general_ci",
            "use_pure": self.pure,
        }
        return mysql.connector.connect(**{**database.options, **own, **options})

    def id_of(self, connection: Any) -> int:
        return int(connection.connection_id)


class CConnectorCaller(ConnectorCaller):
    name = "mysql-connector-python in C"
    pure = False


CALLERS: list[Caller] = [PyMySQLCaller(), MySQLClientCaller(), ConnectorCaller()]
if mysql.connector.HAVE_CEXT:
    CALLERS.append(CConnectorCaller())
