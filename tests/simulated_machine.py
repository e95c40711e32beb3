"""The machine that a process under test sees: a home, and a PATH with an az."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

HOUR = 3600
# The variables of folders to write to, on every platform
FOLDERS = ["HOME", "TMPDIR", "USERPROFILE", "LOCALAPPDATA", "TEMP", "TMP"]


class Lifelines(ExitStack):
    """A port to which processes connect, whose connections end with them."""

    def __init__(self) -> None:
        super().__init__()
        self.server = self.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.server.settimeout(20)
        # The source of a process that ignores polite requests to end, and connects
        self.connect = f"""
import signal, socket, subprocess, sys, time
for name in {{"SIGHUP", "SIGINT", "SIGTERM"}} & {{*dir(signal)}}:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
line = socket.create_connection({self.server.getsockname()!r})
"""
        # The source of an az that hangs, as does the process that it starts
        child = f"{self.connect}line.recv(1)"
        start = f"subprocess.Popen([sys.executable, '-I', '-S', '-c', {child!r}])"
        self.hang = f"{self.connect}{start}\nline.recv(1)\n"

    def accept(self) -> socket.socket:
        """Return the connection of a process, which runs."""
        connection, _ = self.server.accept()
        connection.settimeout(10)
        return connection


def ended(connection: socket.socket) -> bool:
    """Wait for the end of the process at the other end."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


class Machine(ExitStack):
    """A folder that stands for a machine, on every platform, until the context ends."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="simulated-azure-")).resolve()
        self.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.bin, self.home = self.folder / "bin", self.folder / "home"
        self.bin.mkdir()
        self.home.mkdir()
        self.az_log = self.folder / "az.log"
        self.command("keyring", sys.executable, "-m", "keyring")

    def environment(self, **variables: str) -> dict[str, str]:
        """Return an environment with nothing of the real machine but what is needed."""
        needed = {"SYSTEMROOT", "PATHEXT", "COMSPEC"} & {*os.environ}  # on Windows
        return {
            "PATH": str(self.bin),
            "PYTHONIOENCODING": "utf-8",
            **{name: os.environ[name] for name in needed},
            **dict.fromkeys(FOLDERS, str(self.home)),
            **variables,
        }

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine, at home."""
        return subprocess.run(
            command,
            cwd=self.home,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=100,
        )

    def executable(self, name: str, script: str) -> None:
        """Put a shell script on PATH (not on Windows)."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def command(self, name: str, *command: str) -> None:
        """Put a command on PATH that runs another one as its child."""
        if os.name == "nt":
            line = f"@{subprocess.list2cmdline(command)} %*\n"
            (self.bin / f"{name}.cmd").write_text(line)
        else:
            self.executable(name, f'{shlex.join(command)} "$@"\nexit $?')

    def az(self, source: str) -> None:
        """Put an az on PATH: Python that records its arguments, then runs the source.

        Like the real one it is a script that starts Python as its child. The source
        finds os, sys and time imported, and can import the standard library.
        """
        path = self.folder / "az.py"
        program = f"""
import os, sys, time
with open({str(self.az_log)!r}, "a", encoding="utf-8") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
{source}
"""
        path.write_text(program, encoding="utf-8")
        self.command("az", sys.executable, "-I", "-S", "-X", "utf8", str(path))

    def az_says(
        self, stdout: str | bytes = "", stderr: str | bytes = "", status: int = 0
    ) -> None:
        """Put an az on PATH that says this and ends."""
        out, err = map(os.fsencode, (stdout, stderr))
        write = f"sys.stdout.buffer.write({out!r}); sys.stderr.buffer.write({err!r})"
        self.az(f"{write}; sys.exit({status})")

    def az_fails(self, errors: str) -> None:
        """Put an az on PATH that fails with these words."""
        self.az_says(stderr=f"{errors}\n", status=1)

    def az_not_signed_in(self) -> None:
        """Put an az on PATH that nobody is signed in to."""
        self.az_fails("ERROR: Please run 'az login' to setup account.")

    @property
    def az_runs(self) -> list[str]:
        """The arguments of each run of az so far."""
        if not self.az_log.exists():
            return []
        return self.az_log.read_text(encoding="utf-8").splitlines()
