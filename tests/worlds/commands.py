"""The command line in processes that start in milliseconds: forked off one that has everything imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


@dataclass(frozen=True)
class Command:
    """A command that runs.

    Args:
        pid: process, which can be sent signals.
        server: standard output of its parent.
    """

    pid: int
    server: Any

    def wait(self) -> int:
        """Exit code, negative the signal that ended it."""
        code: int = json.loads(self.server.readline())
        return code


class Commands:
    """A server that forks; one command at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(
        self, *arguments: str, errors: Path, pause: float, environment: Mapping[str, str] | None = None
    ) -> Command:
        """Has a command begin.

        Args:
            arguments: of `optmerge`.
            errors: file or terminal that its standard error goes to; nobody reads its standard output.
            pause: seconds before each write, so that something can happen meanwhile.
            environment: variables that are other than here.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {
            "arguments": arguments,
            "errors": str(errors),
            "pause": pause,
            "environment": dict(environment or {}),
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Command(json.loads(self._process.stdout.readline()), self._process.stdout)

    def close(self) -> None:
        """Ends the server."""
        self._process.communicate()


def serve() -> None:
    """The other side of `Commands`: a request per line; a process and then its exit code are answered."""
    import optmerge
    from optmerge.cli import progress  # noqa: F401 - imported for the children
    from worlds.merges import world

    with tempfile.TemporaryDirectory() as folder:  # what a first merge loads is loaded
        models = world(Path(folder))
        optmerge.merge(models.recipe(), models.out)
    for line in sys.stdin:
        request = json.loads(line)
        errors = os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_NOCTTY)
        child = os.fork()
        if child == 0:
            _become(request, errors)
        os.close(errors)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(request: Mapping[str, Any], errors: int) -> NoReturn:
    """Runs the command in this process and ends it."""
    from optmerge.checkpoints.shard_writer import ShardWriter
    from optmerge.cli import main
    from optmerge.engine.output import dense

    nothing = os.open(os.devnull, os.O_RDWR)
    for ours, theirs in ((nothing, 0), (nothing, 1), (errors, 2)):
        os.dup2(ours, theirs)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update(request["environment"])
    dense.SYNC_SECONDS = 0.0
    write = ShardWriter.write_flat

    def slowly(*arguments: Any) -> None:
        time.sleep(request["pause"])
        write(*arguments)

    ShardWriter.write_flat = slowly
    sys.argv = ["optmerge", *request["arguments"]]
    code: Any = 1
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
