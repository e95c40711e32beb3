"""Measure this project beside its published peers, against the simulated Azure.

`python tests/bench.py FOLDER` makes an environment for each contender in the folder,
from the package registry, gives all of them the same jobs, one process per job, and
prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import ssl
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import NamedTuple

from simulated_azure import CLIENT_ID, INDEX_URL, Azure

BARE, PEER, OFFICIAL, OWN = (
    "bare keyring",
    "peer 1.3.3",
    "official 1.0.0",
    "this project",
)
CONTENDERS = {
    BARE: "keyring",
    PEER: "artifacts-keyring-nofuss==1.3.3",
    OFFICIAL: "artifacts-keyring==1.0.0",
    OWN: str(Path(__file__).parents[1]),
}

# Who can do a job, with the settings that lead straight to the source of tokens
PROVIDER = "ARTIFACTS_KEYRING_NOFUSS_PROVIDER"
ENDPOINT = {"endpointCredentials": [{"endpoint": INDEX_URL, "clientId": CLIENT_ID}]}
NOBODY: dict[str, dict[str, str]] = {name: {} for name in CONTENDERS}
USER = {PEER: {PROVIDER: "azure_cli"}, OWN: {PROVIDER: "azure_cli"}}
MACHINE = {
    OFFICIAL: {"ARTIFACTS_CREDENTIALPROVIDER_FEED_ENDPOINTS": json.dumps(ENDPOINT)},
    OWN: {PROVIDER: "managed_identity"},
}

GET = ["-m", "keyring", "--mode", "creds", "get"]  # needs no username
FEEDS_IN_THREADS = """
import keyring, sys
from concurrent.futures import ThreadPoolExecutor
keyring.get_keyring()  # which is not safe to call from several threads
ask = lambda feed: keyring.get_credential(feed, None).password
with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    print(*pool.map(ask, sys.argv[2:]))
"""
FEEDS = [INDEX_URL.replace("private", f"feed-{number}") for number in range(16)]


class Job(NamedTuple):
    """What Python is to do, who can do it, and how many passwords come of it."""

    name: str
    arguments: list[str]
    settings: dict[str, dict[str, str]]
    passwords: int


JOBS = [
    Job("`keyring get`, not a feed", [*GET, "https://pypi.org/simple/"], NOBODY, 0),
    Job("`keyring get`, user signed in to az", [*GET, INDEX_URL], USER, 1),
    Job("`keyring get`, managed identity", [*GET, INDEX_URL], MACHINE, 1),
    Job("five feeds", ["-c", FEEDS_IN_THREADS, "1", *FEEDS[:5]], USER, 5),
    Job("16 threads, 16 feeds", ["-c", FEEDS_IN_THREADS, "16", *FEEDS], USER, 16),
]


def install(name: str, folder: Path) -> str:
    """Make a contender's environment in a folder; return its Python."""
    environment = folder / name.replace(" ", "-")
    subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(environment)], check=True
    )
    python = str(environment / ("Scripts" if os.name == "nt" else "bin") / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", CONTENDERS[name]], check=True
    )
    return python


def furnish(azure: Azure) -> None:
    """Sign everybody in, and trust as many certificates as a real machine does."""
    azure.identity = azure.application_token()
    token = azure.entra_token()
    answers = [azure.az_answer(token), json.dumps(token)]
    azure.az(
        f"print({answers!r}['--query' in sys.argv])"
    )  # the peer asks for the token alone
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    with azure.ca_file.open("a") as bundle:
        bundle.writelines(map(ssl.DER_cert_to_PEM_cert, certificates))


class Run(NamedTuple):
    seconds: float
    costs: str


def measure(
    azure: Azure, pythons: dict[str, str], rounds: int
) -> dict[tuple[str, str], list[Run]]:
    """Do each job in each round, by one contender right after the other."""
    runs = defaultdict(list)
    for _ in range(rounds):
        for job in random.sample(JOBS, len(JOBS)):
            for name in random.sample([*job.settings], len(job.settings)):
                done = run(azure, pythons[name], job, job.settings[name])
                runs[job.name, name].append(done)
    return runs


def run(azure: Azure, python: str, job: Job, settings: dict[str, str]) -> Run:
    """Do a job once. Raises SystemExit if it does not give its passwords."""
    environment = azure.environment(REQUESTS_CA_BUNDLE=str(azure.ca_file), **settings)
    command, folder = (
        [python, *job.arguments],
        azure.home,
    )  # Python imports from its folder
    before, started = costs(azure), time.perf_counter()
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    issued = azure.session_tokens.keys() | azure.bearers.keys()
    passwords = sum(word in issued for word in done.stdout.split())
    if passwords != job.passwords or "Traceback" in done.stderr:
        raise SystemExit(f"{python} failed at {job.name}:\n{done.stderr}")
    return Run(
        seconds, ", ".join(str(now - then) for now, then in zip(costs(azure), before))
    )


def costs(azure: Azure) -> tuple[int, int, int]:
    return len(azure.requests), azure.handshakes, len(azure.az_runs)


def installed(python: str) -> int:
    """Return the KB of an environment, without compiled files."""
    site = next(Path(python).parents[1].rglob("site-packages"))
    files = [path for path in site.rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in files if path.suffix != ".pyc"]
    return sum(sizes) // 1000


def show_time(runs: list[Run], own: list[Run]) -> str:
    """Return the median, and that of the ratios of runs side by side.

    A busy spell slows both.
    """
    shown = f"{median(run.seconds for run in runs) * 1000:.0f}"
    ratio = median(ours.seconds / theirs.seconds for ours, theirs in zip(own, runs))
    return shown if runs is own else f"{shown} ({ratio:.2f})"


def print_table(heading: str, rows: list[list[str]]) -> None:
    for cells in (
        [heading, *CONTENDERS],
        ["---", *("---:" for _ in CONTENDERS)],
        *rows,
    ):
        print(f"| {' | '.join(cells)} |")
    print()


def report(runs: dict[tuple[str, str], list[Run]], pythons: dict[str, str]) -> None:
    """Print what the jobs took and cost, and what each contender adds to keyring."""
    times, spent = [], []
    for job in JOBS:
        found = [runs[job.name, name] for name in CONTENDERS]
        own = runs[job.name, OWN]
        ratios = [show_time(each, own) if each else "" for each in found]
        times.append([job.name, *ratios])
        spent.append(
            [job.name, *(" or ".join({r.costs for r in each}) for each in found)]
        )
    bare, *sizes = map(installed, pythons.values())
    print_table("median in ms (ratio of this project to it)", times)
    print_table("requests, TLS handshakes, az runs", spent)
    print_table(
        "", [["KB beyond keyring", "", *(f"{size - bare:,}" for size in sizes)]]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    pythons = {name: install(name, options.folder.resolve()) for name in CONTENDERS}
    with Azure() as azure:
        furnish(azure)
        report(measure(azure, pythons, options.rounds), pythons)
    print(f"{options.rounds} rounds, {os.cpu_count()} CPUs, Python {sys.version}")


if __name__ == "__main__":
    main()
