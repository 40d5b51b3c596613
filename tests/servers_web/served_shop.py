"""The database and the cache that ``served_app`` works on, and looks at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

from web_server import PATIENCE, WebServer, sockets_to

from hydracache_sync import MemcachedStore, TaggedCache, entity_tag, open_outbox
from support.servers import Memcached
from support.waiting import eventually

ITEMS = [str(number) for number in range(1, 11)]


class ServedShop:
    """Ten items in a database, with an outbox; and the cache of their names.

    :param url: of an empty database.
    :param connection: to it, in autocommit.
    :param notes: folder by which the app and the test tell each other.
    """

    def __init__(
        self,
        url: str,
        connection: Any,
        memcached: Memcached,
        namespace: str,
        notes: Path,
    ) -> None:
        self.namespace = namespace
        self.notes = notes
        self._connection = connection
        # TLS costs each connection 30 ms, for the machine's certificates.
        url += "?ssl_disabled=true"
        self.outbox = open_outbox(url)
        self.outbox.install_schema()
        self.sql("create table item (id integer primary key, name text)")
        for id in ITEMS:
            self.sql("insert into item values (%s, 'before')", id)
        self.store = MemcachedStore(
            [memcached.address], connect_timeout=PATIENCE, timeout=PATIENCE
        )
        self.cache = TaggedCache(self.store, self.namespace)
        self.ports = [connection.port, memcached.port]
        self.environment = {
            "NOTES": str(notes),
            # gunicorn puts a socket there.
            "HOME": str(notes),
            "XDG_RUNTIME_DIR": "",
            "MEMCACHED": memcached.address,
            "HYDRACACHE_OUTBOX": url,
            "HYDRACACHE_NAMESPACE": self.namespace,
            "HYDRACACHE_SNAPSHOT": "fresh",
        }

    def close(self) -> None:
        self.outbox.close()
        self.store.close()

    def serve(self, command: Sequence[object], **environment: str) -> WebServer:
        return WebServer(
            [str(part) for part in command], {**self.environment, **environment}
        )

    # The cache

    def fill_cache(self) -> None:
        """Store a value for each item that is not the database's."""
        for id in ITEMS:
            self.cache.get_or_load(
                f"item:{id}", lambda: "old", tags=[entity_tag("item", id)]
            )
        assert self.cached() == dict.fromkeys(ITEMS, "old")

    def cached(self) -> dict[str, Any]:
        return {
            id: self.cache.get(f"item:{id}", tags=[entity_tag("item", id)])
            for id in ITEMS
        }

    # The outbox

    def pending(self) -> int:
        return int(self.outbox.status(self.namespace).pending)

    def names(self) -> set[str]:
        return {name for (name,) in self.sql("select distinct name from item")}

    def sql(self, statement: str, *parameters: Any) -> Sequence[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            rows: Sequence[Any] = cursor.fetchall()
            return rows

    # What the server's processes hold

    def holders(self, server: WebServer) -> dict[str, set[int]]:
        """Its connections to database and cache, each with who holds it."""
        return sockets_to(self.ports, [server.pid, *server.workers])

    def connected(self, server: WebServer) -> set[int]:
        return {pid for pids in self.holders(server).values() for pid in pids}

    # A batch in flight

    def put_in_flight(self, server: WebServer) -> int:
        """Have a worker apply a batch slowly; return which one, when it is at it."""
        for path in [*self.notes.glob("began.*"), *self.notes.glob("ended.*")]:
            path.unlink()
        (self.notes / "slow").touch()
        server.ask("POST", f"/items/{ITEMS[0]}/slow")
        eventually(lambda: self._noted("began"), "a batch in flight")
        (self.notes / "slow").unlink()
        [pid] = self._noted("began")
        assert not self._noted("ended")
        return pid

    def check_finished_by(self, pid: int, server: WebServer) -> None:
        """The batch in flight was finished, and by the one who began it."""
        said = server.said[-3000:]
        assert self._noted("began") == [pid], said
        assert self._noted("ended") == [pid], said
        assert self.pending() == 0, said

    def _noted(self, what: str) -> list[int]:
        return [int(path.suffix[1:]) for path in self.notes.glob(f"{what}.*")]
