"""Try the README's two commands on machines that people have: `nox -s machines`.

Each row of MACHINES is a clone of the last commit in an empty folder, where there is
one Python, no compiler and nothing in the environment. Arguments choose rows by a part
of their names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
SETUP = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox"
COMMANDS = {"demo": f"{SETUP} -s demo", "test": SETUP}
HIDDEN = re.compile(r"python|^pip|gcc|clang|\+\+|^cc$|^c[89]9|^(az|keyring|uv)$")
SYSTEM = "/usr/bin/python3"
NOBODY = "65534"


class Machine(NamedTuple):
    """What is special there. Where it is not root, root must start this."""

    name: str
    python: str
    called: str = "python3"  # beside python3
    folder: str = "project"
    root: bool = True
    home_mode: int = 0o755
    before: str = "true"  # a command line
    variables: Mapping[str, str] = {}


MACHINES = [
    Machine("the system's Python", SYSTEM),
    Machine("the system's Python, not root", SYSTEM, root=False),
    Machine("only Python 3.9", "python3.9", called="python3.9"),
    Machine("only Python 3.10", "python3.10", called="python3.10"),
    Machine("Python 3.9, called python3", "python3.9"),
    Machine("Python 3.13, called python3", "python3.13"),
    Machine("a path with a space", SYSTEM, folder="the project"),
    Machine("HOME read-only", SYSTEM, root=False, home_mode=0o555),
    Machine(
        "another keyring backend",
        SYSTEM,
        variables={"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"},
    ),
    Machine(
        "the unpacked sdist",
        SYSTEM,
        before=f"{SETUP} -s package && git rm -rq . && rm -r .git"
        " && tar -xf dist/*.tar.gz --strip-components 1",
    ),
]


@contextmanager
def laid_out(machine: Machine, python: str) -> Iterator[Path]:
    """Make the machine's folder: programs, a home and the project."""
    with tempfile.TemporaryDirectory(prefix="machine-") as name:
        top = Path(name)
        top.chmod(0o755)
        for folder in ("bin", "home", "tmp"):
            (top / folder).mkdir()
        for program in Path("/usr/bin").iterdir():
            if not HIDDEN.search(program.name):
                (top / "bin" / program.name).symlink_to(program)
        for called in {"python3", machine.called}:
            (top / "bin" / called).symlink_to(python)
        clone = ["git", "clone", "--quiet", str(PROJECT), str(top / machine.folder)]
        subprocess.run(clone, check=True)
        if not machine.root:
            subprocess.run(["chown", "-R", NOBODY, name], check=True)
        (top / "home").chmod(machine.home_mode)
        yield top


def green(machine: Machine, top: Path, line: str) -> bool:
    """Run a command line; tell whether it succeeded and left no temporary file."""
    shell = ["/bin/sh", "-c", line]
    if not machine.root:
        become = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
        shell = [*become.split(), *shell]
    done = subprocess.run(
        shell,
        cwd=top / machine.folder,
        env={
            "PATH": f"{top}/bin",
            "HOME": f"{top}/home",
            "TMPDIR": f"{top}/tmp",
            **machine.variables,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    files = [str(path) for path in (top / "tmp").rglob("*") if not path.is_dir()]
    left = [path for path in files if "cacert.pem" not in path]  # of 3.9's venv
    is_green = done.returncode == 0 and not left
    if not is_green:
        print(done.stdout, "Left behind:", left[:9])
    return is_green


def main() -> None:
    rows = sys.argv[1:] or [""]
    colors = []
    for machine in MACHINES:
        if not any(part in machine.name for part in rows):
            continue
        python = shutil.which(machine.python)
        if python is None or not (machine.root or os.getuid() == 0):
            print(f"not here        {machine.name}", flush=True)
            continue
        with laid_out(machine, python) as top:
            assert green(machine, top, machine.before)
            for name in COMMANDS:
                start = time.monotonic()
                color = "green" if green(machine, top, COMMANDS[name]) else "RED"
                colors.append(color)
                seconds = time.monotonic() - start
                print(f"{color:5} {seconds:4.0f} s {name}  {machine.name}", flush=True)
    sys.exit("RED" in colors)


if __name__ == "__main__":
    main()
