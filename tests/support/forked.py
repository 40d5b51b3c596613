"""Commands in processes of their own, forked from one that has made their imports.

Most of the time of a short command goes into imports. What a test wants to see imported
must not be among those.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

#: Runs the command of each line that it reads, as ``python -m`` or ``python`` does.
PROGRAM = """if True:
    import importlib, json, os, runpy, sys

    for name in json.loads(sys.argv[1]):
        importlib.import_module(name)
    for line in sys.stdin:
        if not os.fork():
            break
        print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
    else:
        sys.exit()
    folder, environment, sys.argv[:] = json.loads(line)
    os.chdir(folder)
    os.environ.update(environment)
    for number, name in enumerate((os.devnull, "stdout", "stderr")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class ForkedCommands:
    """Runs commands, one at a time.

    :param imports: modules that the commands have already.
    :param options: of the interpreter.
    """

    def __init__(self, imports: Sequence[str], *options: str) -> None:
        self._process: Any = subprocess.Popen(
            [sys.executable, *options, "-c", PROGRAM, json.dumps(imports)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> ForkedCommands:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=100)

    def run(
        self, folder: Path, *words: str, env: Mapping[str, str] = {}
    ) -> tuple[int, str, str]:
        """Return the exit code of a command, and what it has written.

        :param words: a module, or the name of a script of ``folder``, and arguments.
        """
        self._process.stdin.write(json.dumps([str(folder), dict(env), words]) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        texts = [(folder / name).read_text("utf-8") for name in ("stdout", "stderr")]
        return code, texts[0], texts[1]
