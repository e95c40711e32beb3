"""Measure this project beside the published peers, against the simulated Azure.

`python tests/bench.py FOLDER` makes an environment for each contender in the folder, with the same
keyring from the package registry, runs the same jobs on each in turn, one process per job, and
prints Markdown: the medians beside the targets, what each job cost, and the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import NamedTuple

from flit_core.wheel import make_wheel_in

from simulated_azure import INDEX_URL, UPLOAD_URL, Azure

BARE, PEER, OFFICIAL, OWN = "bare keyring", "peer 1.3.3", "official 1.0.0", "this project"
WARM_UP = 2  # rounds that do not count
PROJECT = Path(__file__).parents[1]

# --- The jobs ------------------------------------------------------------------------------------

NOBODY, USER, MACHINE = "nobody", "user", "machine"
FEEDS = [INDEX_URL.replace("private", f"feed-{number}") for number in range(16)]
GET = ["-m", "keyring", "--mode", "creds", "get"]  # which needs no username: the official's varies

CREDENTIAL_THEN_PASSWORD = """
import keyring, sys
credential = keyring.get_credential(sys.argv[1], None)
print(credential.password)
print(keyring.get_password(sys.argv[1], credential.username))
"""
ONE_BY_ONE = """
import keyring, sys
for feed in sys.argv[1:]:
    print(keyring.get_credential(feed, None).password)
"""
AT_ONCE = """
import keyring, sys, threading
keyring.get_keyring()  # which is not safe to call from several threads
def ask(feed):
    sys.stdout.write(keyring.get_credential(feed, None).password + "\\n")
threads = [threading.Thread(target=ask, args=[feed]) for feed in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


class Job(NamedTuple):
    """Arguments of Python, who is signed in, the passwords to get, and the ratios to reach."""

    work: str
    arguments: list[str]
    identity: str
    passwords: int
    targets: dict[str, float]
    repeats: int = 1  # in a round


JOBS = [
    Job(
        "`keyring get`, not a feed",
        [*GET, "https://pypi.org/simple/"],
        NOBODY,
        0,
        {BARE: 1.03},
        repeats=8,  # the target is narrow
    ),
    Job("`keyring get`, user signed in to az", [*GET, INDEX_URL], USER, 1, {PEER: 0.55}),
    Job(
        "`keyring get`, managed identity",
        [*GET, INDEX_URL],
        MACHINE,
        1,
        {PEER: 0.60, OFFICIAL: 0.35},
    ),
    Job(
        "credential, then password",
        ["-c", CREDENTIAL_THEN_PASSWORD, UPLOAD_URL],
        USER,
        2,
        {PEER: 0.40},
    ),
    Job("five feeds", ["-c", ONE_BY_ONE, *FEEDS[:5]], USER, 5, {PEER: 0.22}),
    Job("16 threads, 16 feeds", ["-c", AT_ONCE, *FEEDS], USER, 16, {PEER: 0.15}),
]

# --- The contenders ------------------------------------------------------------------------------

# The documented settings that lead each peer straight to its source of tokens.
CLIENT_ID = "99999999-0000-0000-0000-000000000000"
ENDPOINT = {"endpointCredentials": [{"endpoint": INDEX_URL, "clientId": CLIENT_ID}]}
SETTINGS = {
    (PEER, USER): {"ARTIFACTS_KEYRING_NOFUSS_PROVIDER": "azure_cli"},
    (PEER, MACHINE): {
        "ARTIFACTS_KEYRING_NOFUSS_PROVIDER": "azure_identity",
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
    },
    (OFFICIAL, MACHINE): {
        "ARTIFACTS_CREDENTIALPROVIDER_FEED_ENDPOINTS": json.dumps(ENDPOINT),
        "ARTIFACTS_KEYRING_NONINTERACTIVE_MODE": "true",
    },
}


class Contender(NamedTuple):
    """An environment's Python, and what was installed into it beyond the bare keyring."""

    python: Path
    packages: int  # beside the plugin itself
    size: int  # bytes


def prepare(folder: Path) -> dict[str, Contender]:
    """Make the environments; leave out what the registry does not have for this machine."""
    wheel = make_wheel_in(PROJECT / "pyproject.toml", folder).file
    requirements = {
        BARE: "keyring",
        PEER: "artifacts-keyring-nofuss==1.3.3",
        OFFICIAL: "artifacts-keyring==1.0.0",
        OWN: str(wheel),
    }
    contenders: dict[str, Contender] = {}
    bare: dict[str, Distribution] = {}
    for name, requirement in requirements.items():
        same = [f"keyring=={bare['keyring'].version}"] if bare else []
        environment = folder / name.replace(" ", "-")
        python = install(environment, requirement, *same)
        if python:
            here = installed(environment)
            added = [here[package] for package in here.keys() - (bare or here).keys()]
            contenders[name] = Contender(python, max(len(added) - 1, 0), sum(map(size, added)))
            bare = bare or here
    return contenders


def install(environment: Path, *requirements: str) -> Path | None:
    """Make an environment from the package registry; return its Python, None if that fails."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    done = subprocess.run([*command, *requirements], check=False)
    return None if done.returncode else python


def installed(environment: Path) -> dict[str, Distribution]:
    """Return the packages of an environment by name."""
    folder = next(environment.rglob("site-packages"))
    return {found.metadata["Name"].lower(): found for found in distributions(path=[str(folder)])}


def size(distribution: Distribution) -> int:
    """Return the bytes of a package's files, without what Python compiled."""
    files = [file for file in distribution.files or [] if "__pycache__" not in file.parts]
    return sum(os.path.getsize(file.locate()) for file in files)


# --- The measurement -----------------------------------------------------------------------------


class Costs(NamedTuple):
    """What the simulated Azure saw of a job."""

    requests: int
    handshakes: int
    az_runs: int


class Run(NamedTuple):
    seconds: float
    costs: Costs
    right: bool  # whether it gave the passwords that it should


Runs = dict[tuple[str, str], list[Run]]  # by a job's work and a contender's name


def measure(azure: Azure, contenders: dict[str, Contender], rounds: int) -> Runs:
    """Run every job on every contender, in turn, round by round."""
    runs: Runs = {}
    for turn in range(WARM_UP + rounds):
        for job, name in takers(contenders):
            run = perform(azure, contenders[name].python, job, SETTINGS.get((name, job.identity)))
            if turn >= WARM_UP:
                runs.setdefault((job.work, name), []).append(run)
        print(f"round {turn + 1} of {WARM_UP + rounds}", file=sys.stderr)
    return runs


def takers(contenders: dict[str, Contender]) -> Iterator[tuple[Job, str]]:
    """Yield a round: each job with each contender that can do it, in an order by chance.

    In a fixed order, one would always find the caches as the same other left them.
    """
    able = {NOBODY: [*contenders], USER: [PEER, OWN], MACHINE: [PEER, OFFICIAL, OWN]}
    for job in chain.from_iterable(repeat(job, job.repeats) for job in JOBS):
        for name in random.sample([*contenders], len(contenders)):
            if name in able[job.identity]:
                yield job, name


def perform(azure: Azure, python: Path, job: Job, settings: dict[str, str] | None) -> Run:
    """Run a job once."""
    before = costs(azure)
    environment = azure.environment(
        PATH=str(azure.bin if job.identity == USER else azure.home),  # a machine has no az
        REQUESTS_CA_BUNDLE=str(azure.ca_file),
        **(settings or {}),
    )
    # Not in the working directory: from there Python would import this project for the peer.
    command = [str(python), *job.arguments]
    started = time.perf_counter()
    done = subprocess.run(
        command, env=environment, cwd=azure.home, stdin=subprocess.DEVNULL, capture_output=True
    )
    seconds = time.perf_counter() - started
    words = done.stdout.decode().split()
    issued = [word for word in words if word in azure.session_tokens or word in azure.bearers]
    right = len(issued) == job.passwords and not (job.identity == NOBODY and words)
    if not right:
        print(done.stderr.decode(), file=sys.stderr)
    return Run(seconds, Costs(*(now - then for now, then in zip(costs(azure), before))), right)


def costs(azure: Azure) -> Costs:
    return Costs(len(azure.requests), azure.handshakes, len(azure.az_runs))


def furnish(azure: Azure) -> int:
    """Sign everybody in, and trust as many certificates as a real machine; return their number."""
    azure.identity = azure.application_token()
    token = azure.az_signed_in()
    (azure.folder / "query.json").write_text(json.dumps(token))
    # The peer asks az for --query accessToken.
    azure.az(f'case "$*" in *--query*) f=query;; *) f=az;; esac; cat {azure.folder}/$f.json')
    system = ssl.get_default_verify_paths().cafile
    if system:
        with azure.ca_file.open("a") as bundle:
            bundle.write(Path(system).read_text())
    return azure.ca_file.read_text().count("BEGIN CERTIFICATE")


# --- The report ----------------------------------------------------------------------------------

COLUMNS = [BARE, PEER, OFFICIAL, OWN]


def report(runs: Runs, contenders: dict[str, Contender]) -> Iterator[str]:
    """Yield the lines of the tables of medians and of costs."""
    yield from heading("work", *COLUMNS, "ratio", "to reach", "reached")
    for job in JOBS:
        medians = {name: typical(runs.get((job.work, name), [])) for name in COLUMNS}
        times = [f"{value * 1000:.0f} ms" if value else "-" for value in medians.values()]
        measured = [name for name in job.targets if medians[OWN] and medians[name]]
        ratios = {name: ratio(runs[job.work, OWN], runs[job.work, name]) for name in measured}
        shown = ", ".join(f"{value:.3f} of {name}" for name, value in ratios.items()) or "-"
        wanted = ", ".join(f"{target:.2f}" for target in job.targets.values())
        yield row(job.work, *times, shown, wanted, verdict(ratios, job.targets))
    yield from size_rows(contenders)
    yield ""
    yield from heading("requests, TLS handshakes, az runs", *COLUMNS)
    for job in JOBS:
        yield row(job.work, *(spent(runs.get((job.work, name), [])) for name in COLUMNS))


def heading(*cells: str) -> Iterator[str]:
    yield row(*cells)
    yield row(*("---" for _ in cells))


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def typical(runs: list[Run]) -> float | None:
    """Return the median of the seconds; None without runs or where one gave no password."""
    return median(run.seconds for run in runs) if runs and all(run.right for run in runs) else None


def ratio(runs: list[Run], others: list[Run]) -> float:
    """Return the median of the ratios of runs side by side: a busy spell slows both."""
    return median(run.seconds / other.seconds for run, other in zip(runs, others))


def verdict(ratios: dict[str, float], targets: dict[str, float]) -> str:
    if ratios.keys() != targets.keys():
        return "not measured"
    return "yes" if all(ratios[name] <= targets[name] for name in targets) else "no"


def size_rows(contenders: dict[str, Contender]) -> Iterator[str]:
    """Yield the rows of what each contender adds to keyring."""
    known = [contenders.get(name) for name in COLUMNS]
    sizes = [f"{found.size / 1000:,.0f} KB" if found else "-" for found in known]
    packages = [str(found.packages) if found else "-" for found in known]
    own = contenders[OWN]
    small, few = own.size < 100_000, own.packages == 0
    yield row("installed beyond keyring", *sizes, "", "under 100 KB", "yes" if small else "no")
    yield row("packages beyond keyring", *packages, "", "0", "yes" if few else "no")


def spent(runs: list[Run]) -> str:
    """Return what a job cost, each way that it did."""
    if not all(run.right for run in runs):
        return "gave no password"
    return " or ".join(", ".join(map(str, cost)) for cost in sorted({r.costs for r in runs})) or "-"


def instructions(azure: Azure, python: Path) -> int:
    """Count the instructions of the first job, which are the same however busy the machine is."""
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}", str(python)]
    environment = azure.environment(PATH=os.environ["PATH"], PYTHONHASHSEED="0")
    done = subprocess.run(
        [*command, *JOBS[0].arguments], env=environment, cwd=azure.home, capture_output=True
    )
    return int(done.stderr.decode().rpartition("Collected : ")[2].split()[0])


def machine() -> str:
    """Return the machine, the system and the Python, in a line."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = next(iter(models), platform.processor() or platform.machine())
    system = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} x {model}, {system}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure this project beside the peers.")
    parser.add_argument("folder", type=Path, help="where to make the environments")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(exist_ok=True)
    contenders = prepare(folder)
    keyring = installed(contenders[BARE].python.parents[1])["keyring"].version
    with Azure() as azure:
        certificates = furnish(azure)
        runs = measure(azure, contenders, arguments.rounds)
        counts = [
            instructions(azure, contenders[name].python)
            for name in (OWN, BARE)
            if shutil.which("valgrind")
        ]
    print(*report(runs, contenders), sep="\n")
    print(f"\nMedians of {arguments.rounds} rounds; {machine()}, keyring {keyring}.")
    print(f"{certificates} trusted certificates; an az that costs next to nothing.")
    if counts:
        share = counts[0] / counts[1]
        print(f"Instructions of {JOBS[0].work}: {share:.3f} of {BARE} (valgrind).")
    print("What has no figure cannot be done: the official plugin, for one, does not ask az.")


if __name__ == "__main__":
    main()
