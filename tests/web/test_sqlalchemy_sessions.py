"""What a session's transaction invalidates is written with it, or neither is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from library import ADA, BOB, EVE, KNOWS_TWO_PHASES, NAMESPACE, Author, Library
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from hydracache_sync import ConfigurationError, NotInTransactionError, OutboxError
from hydracache_sync.integrations.sqlalchemy import Attached, attach


@pytest.fixture
def attached(library: Library) -> Attached:
    return attach(library.make, library.outbox, NAMESPACE)


def add(session: Session, name: str) -> Author:
    author = Author(name=name)
    session.add(author)
    return author


class TestCommit:
    def test_rows_are_committed_with_the_data_by_one_statement(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            add(session, "ada")
            attached.invalidate(session, ADA, BOB)
            attached.invalidate(session, ADA)
            before = library.intents()
            session.commit()

        assert before == []
        assert library.names() == ["ada"]
        assert library.intents() == [ADA, BOB]
        assert len({row.commit_position for row in library.outbox.rows("library")}) == 1

    def test_nothing_is_written_where_nothing_was_invalidated(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            session.commit()
            add(session, "ada")
            session.commit()

        assert library.intents() == []
        assert attached.receipt(session) is None

    def test_a_session_that_has_not_used_the_database_yet_writes_too(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            attached.invalidate(session, ADA)
            session.commit()

        assert library.intents() == [ADA]

    def test_a_transaction_as_a_block_writes_at_its_end(
        self, library: Library, attached: Attached
    ) -> None:
        with library.make.begin() as session:
            add(session, "ada")
            attached.invalidate(session, ADA)

        assert (library.names(), library.intents()) == (["ada"], [ADA])

    def test_each_transaction_of_a_session_writes_its_own(
        self, library: Library, attached: Attached
    ) -> None:
        receipts = []
        with library.session() as session:
            for name, intent in (("ada", ADA), ("bob", BOB)):
                add(session, name)
                attached.invalidate(session, intent)
                session.commit()
                receipts.append(attached.receipt(session))

        assert library.intents() == [ADA, BOB]
        assert [receipt and receipt.targets for receipt in receipts] == [1, 1]
        assert receipts[0] != receipts[1]

    def test_a_process_killed_right_after_the_commit_leaves_both(
        self, library: Library, attached: Attached
    ) -> None:
        pid = os.fork()
        if pid == 0:
            # As dispose(close=False), which came with 1.4.33.
            library.engine.pool = library.engine.pool.recreate()
            with library.session() as session:
                add(session, "ada")
                attached.invalidate(session, ADA)
                session.commit()
                os._exit(9)
        status = os.waitpid(pid, 0)[1]

        assert os.WEXITSTATUS(status) == 9
        assert (library.names(), library.intents()) == (["ada"], [ADA])

    def test_what_later_listeners_of_the_commit_add_is_written_too(
        self, library: Library, attached: Attached
    ) -> None:
        @event.listens_for(library.make, "before_commit")
        def late(session: Session) -> None:
            attached.invalidate(session, BOB)

        with library.session() as session:
            add(session, "ada")
            attached.invalidate(session, ADA)
            session.commit()

        assert library.intents() == [ADA, BOB]
        assert len(attached.receipts(session)) == 2

    @pytest.mark.parametrize("kind", ["scoped", "class", "instance"])
    def test_whatever_makes_sessions_can_be_attached(
        self, library: Library, kind: str
    ) -> None:
        class OwnSession(Session):
            pass

        make = sessionmaker(bind=library.engine, class_=OwnSession)
        session: Any = make()
        target = {
            "scoped": scoped_session(make),
            "class": OwnSession,
            "instance": session,
        }[kind]
        attached = attach(target, library.outbox, NAMESPACE)
        owner = target if kind == "scoped" else session

        add(owner, "ada")
        attached.invalidate(owner, ADA)
        owner.commit()

        assert library.intents() == [ADA]
        assert attached.receipt(owner) is not None
        owner.close()

    def test_attaching_again_changes_nothing(
        self, library: Library, attached: Attached
    ) -> None:
        again = attach(scoped_session(library.make), library.outbox, NAMESPACE)

        with library.session() as session:
            again.invalidate(session, ADA)
            session.commit()

        assert again is attached
        assert library.intents() == [ADA]

    def test_other_sessions_are_left_alone(
        self, library: Library, attached: Attached
    ) -> None:
        with Session(library.engine) as other:
            add(other, "ada")
            other.commit()
            with pytest.raises(TypeError):
                attach(object(), library.outbox, NAMESPACE)  # type: ignore[arg-type]

        assert library.intents() == []


class TestRollback:
    def test_rows_go_with_the_data(self, library: Library, attached: Attached) -> None:
        with library.session() as session:
            add(session, "ada")
            attached.invalidate(session, ADA)
            session.flush()
            session.rollback()
            add(session, "bob")
            attached.invalidate(session, BOB)
            session.commit()

        assert (library.names(), library.intents()) == (["bob"], [BOB])

    def test_closing_forgets_what_was_not_committed(
        self, library: Library, attached: Attached
    ) -> None:
        session = library.session()
        add(session, "ada")
        attached.invalidate(session, ADA)
        session.flush()
        session.close()
        add(session, "bob")
        attached.invalidate(session, BOB)
        session.commit()
        session.close()

        assert (library.names(), library.intents()) == (["bob"], [BOB])

    def test_removing_a_scoped_session_does_too(self, library: Library) -> None:
        scoped = scoped_session(library.make)
        attached = attach(scoped, library.outbox, NAMESPACE)

        add(scoped(), "ada")
        attached.invalidate(scoped, ADA)
        scoped.flush()
        scoped.remove()
        scoped.commit()
        scoped.remove()

        assert (library.names(), library.intents()) == ([], [])

    def test_a_commit_that_fails_leaves_neither_and_no_receipt(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            add(session, "ada")
            add(session, "ada")
            attached.invalidate(session, ADA)
            with pytest.raises(IntegrityError):
                session.commit()
            session.rollback()

            assert attached.receipt(session) is None
        assert (library.names(), library.intents()) == ([], [])

    def test_a_listener_that_raises_after_the_rows_are_written_leaves_neither(
        self, library: Library, attached: Attached
    ) -> None:
        @event.listens_for(library.make, "before_commit")
        def fail(session: Session) -> None:
            raise ZeroDivisionError

        with library.session() as session:
            add(session, "ada")
            attached.invalidate(session, ADA)
            with pytest.raises(ZeroDivisionError):
                session.commit()
            session.rollback()

            assert attached.receipt(session) is None
        assert (library.names(), library.intents()) == ([], [])

    def test_an_outbox_that_cannot_be_written_fails_the_commit(
        self, library: Library
    ) -> None:
        missing = library.outbox_on("missing")
        attached = attach(library.make, missing, NAMESPACE)

        with library.session() as session:
            add(session, "ada")
            attached.invalidate(session, ADA)
            with pytest.raises(OutboxError, match="missing"):
                session.commit()

        missing.close()

        assert library.names() == []

    def test_an_engine_in_autocommit_is_refused_at_the_commit(
        self, library: Library
    ) -> None:
        engine = library.engine.execution_options(isolation_level="AUTOCOMMIT")
        make = sessionmaker(bind=engine)
        attached = attach(make, library.outbox, NAMESPACE)

        with make() as session:
            attached.invalidate(session, ADA)
            with pytest.raises(NotInTransactionError):
                session.commit()

        assert library.intents() == []


class TestSavepoints:
    def test_one_that_is_rolled_back_takes_its_intents_with_it(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            add(session, "ada")
            attached.invalidate(session, ADA)
            savepoint = session.begin_nested()
            add(session, "bob")
            attached.invalidate(session, BOB)
            session.flush()
            savepoint.rollback()
            session.commit()

        assert (library.names(), library.intents()) == (["ada"], [ADA])

    def test_one_that_is_released_keeps_them_and_writes_at_the_end(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            add(session, "ada")
            with session.begin_nested():
                add(session, "bob")
                attached.invalidate(session, BOB)
            durable = library.intents()
            attached.invalidate(session, ADA)
            session.commit()

        assert durable == []
        assert (library.names(), library.intents()) == (["ada", "bob"], [BOB, ADA])

    def test_nested_ones_each_decide_for_what_is_in_them(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            add(session, "ada")
            attached.invalidate(session, ADA)
            outer = session.begin_nested()
            with session.begin_nested():
                add(session, "bob")
                attached.invalidate(session, BOB)
            outer.rollback()
            with session.begin_nested():
                inner = session.begin_nested()
                attached.invalidate(session, BOB)
                inner.rollback()
                add(session, "eve")
                attached.invalidate(session, EVE)
            session.commit()

        assert (library.names(), library.intents()) == (["ada", "eve"], [ADA, EVE])

    # SQLAlchemy 1.4 says so; what it does is the same.
    @pytest.mark.filterwarnings("ignore:nested transaction already deassociated")
    def test_rolling_back_an_outer_one_takes_an_open_inner_one_along(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            add(session, "ada")
            attached.invalidate(session, ADA)
            outer = session.begin_nested()
            session.begin_nested()
            add(session, "bob")
            attached.invalidate(session, BOB)
            session.flush()
            outer.rollback()
            session.commit()

        assert (library.names(), library.intents()) == (["ada"], [ADA])

    def test_a_failed_flush_in_one_costs_only_what_is_in_it(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            add(session, "ada")
            attached.invalidate(session, ADA)
            with pytest.raises(IntegrityError):
                with session.begin_nested():
                    attached.invalidate(session, BOB)
                    add(session, "ada")
                    session.flush()
            session.commit()

        assert (library.names(), library.intents()) == (["ada"], [ADA])

    def test_a_rollback_of_all_forgets_what_released_ones_left(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            with session.begin_nested():
                add(session, "ada")
                attached.invalidate(session, ADA)
            session.rollback()
            session.commit()

        assert (library.names(), library.intents()) == ([], [])


class TestCallersConnection:
    def test_a_session_in_a_transaction_of_its_owner_leaves_the_end_to_that(
        self, library: Library, attached: Attached
    ) -> None:
        for commits in (False, True):
            with library.engine.connect() as connection:
                outer = connection.begin()
                with library.make(bind=connection) as session:
                    add(session, "ada")
                    attached.invalidate(session, ADA)
                    session.commit()
                if commits:
                    outer.commit()
                else:
                    outer.rollback()
                    assert (library.names(), library.intents()) == ([], [])

        assert (library.names(), library.intents()) == (["ada"], [ADA])

    def test_a_session_attached_while_it_is_open_is_followed_from_then_on(
        self, library: Library
    ) -> None:
        with library.session() as session:
            add(session, "ada")
            session.flush()
            attached = attach(session, library.outbox, NAMESPACE)
            attached.invalidate(session, ADA)
            session.commit()

        assert (library.names(), library.intents()) == (["ada"], [ADA])


class TestAfterTheCommit:
    def test_the_receipt_is_there_and_the_outbox_has_told_of_the_commit(
        self, library: Library, attached: Attached
    ) -> None:
        told: list[Any] = []
        library.outbox.subscribe(
            lambda namespaces: told.append((namespaces, library.intents()))
        )

        with library.session() as session:
            add(session, "ada")
            with session.begin_nested():
                attached.invalidate(session, ADA)
            early = list(told)
            session.commit()
            receipt = attached.receipt(session)

        assert early == []
        assert told == [({"library"}, [ADA])]
        assert receipt is not None and receipt.targets == 1
        found = library.outbox.status_for_commit(NAMESPACE, receipt.commit_position)
        assert found.pending == 1

    def test_the_session_object_keeps_it_when_it_is_closed(
        self, library: Library, attached: Attached
    ) -> None:
        with library.make.begin() as session:
            attached.invalidate(session, ADA)

        assert attached.receipt(session) is not None


class TestSeveralDatabases:
    def test_without_a_bind_the_commit_is_refused_and_says_so(
        self, library: Library, tmp_path: Path
    ) -> None:
        make, other = two_databases(library, tmp_path)
        attached = attach(make, library.outbox, NAMESPACE)

        with make() as session:
            add(session, "ada")
            session.flush()
            session.execute(text("select 1"), bind_arguments={"bind": other})
            attached.invalidate(session, ADA)
            with pytest.raises(ConfigurationError, match="bind="):
                session.commit()

        other.dispose()
        assert (library.names(), library.intents()) == ([], [])

    def test_with_one_the_rows_are_written_there_and_it_is_said_what_is_not_atomic(
        self, library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        make, other = two_databases(library, tmp_path)
        attached = attach(make, library.outbox, NAMESPACE, bind=lambda: library.engine)

        for name, intent in (("ada", ADA), ("bob", BOB)):
            with make() as session:
                add(session, name)
                session.execute(text("select 1"), bind_arguments={"bind": other})
                attached.invalidate(session, intent)
                session.commit()

        other.dispose()
        assert (library.names(), library.intents()) == (["ada", "bob"], [ADA, BOB])
        assert caplog.text.count("twophase") == 1

    @pytest.mark.parametrize("library", KNOWS_TWO_PHASES, indirect=True)
    def test_two_phases_commit_the_rows_with_the_data_and_need_no_warning(
        self, library: Library, caplog: pytest.LogCaptureFixture
    ) -> None:
        make = sessionmaker(bind=library.engine, twophase=True)
        attached = attach(make, library.outbox, NAMESPACE, bind=library.engine)

        for commits in (True, False):
            with make() as session:
                add(session, "ada" if commits else "bob")
                attached.invalidate(session, ADA if commits else BOB)
                session.prepare()
                if commits:
                    session.commit()
                else:
                    session.rollback()

        assert (library.names(), library.intents()) == (["ada"], [ADA])
        assert caplog.records == []

    def test_attached_to_two_outboxes_each_gets_its_own(self, library: Library) -> None:
        ours = attach(library.make, library.outbox, NAMESPACE)
        theirs = attach(library.make, library.outbox, "archive")

        with library.session() as session:
            add(session, "ada")
            ours.invalidate(session, ADA)
            theirs.invalidate(session, BOB)
            session.commit()

        archived = [row.intent for row in library.outbox.rows("archive")]
        assert (library.intents(), archived) == ([ADA], [BOB])

    def test_a_session_without_a_bind_of_its_own_says_what_to_do(
        self, library: Library
    ) -> None:
        make = sessionmaker(binds={Author: library.engine})
        attached = attach(make, library.outbox, NAMESPACE)

        with make() as session:
            attached.invalidate(session, ADA)
            with pytest.raises(ConfigurationError, match="bind="):
                session.commit()


def two_databases(library: Library, tmp_path: Path) -> tuple[Any, Any]:
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    return sessionmaker(bind=library.engine), other
