"""``manage.py hydracache``: the commands, with the settings of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from hydracache_sync.app.config import AppConfig
from hydracache_sync.cli.program import app_commands
from hydracache_sync.integrations.django.project import project_settings


class Command(BaseCommand):  # type: ignore[misc]
    """Hands its arguments on, but Django's own ``--settings`` and ``--pythonpath``.

    By ``call_command`` it returns nothing at exit code 0, and raises SystemExit else.
    """

    help = (
        "Apply the project's committed cache invalidations; its own --help says more."
    )
    requires_system_checks: list[str] = []

    def run_from_argv(self, argv: list[str]) -> None:
        parser = CommandParser(add_help=False, allow_abbrev=False)
        # What Django itself has read, and acted on, before it came here.
        parser.add_argument("--settings")
        parser.add_argument("--pythonpath")
        _, words = parser.parse_known_args(argv[2:])
        self.handle(*words, program=f"{Path(argv[0]).name} {argv[1]}")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("args", nargs="...")

    def handle(self, *args: str, program: str = "hydracache", **options: Any) -> None:
        texts = AppConfig(project_settings(), commands=True).texts
        try:
            app_commands(texts).main(list(args), prog_name=program)
        except SystemExit as ended:
            if ended.code:
                raise
