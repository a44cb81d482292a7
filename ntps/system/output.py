"""One result of a pair: its files, and beside them the provenance that says they are whole and what they are of."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntps.errors import UserError
from ntps.system import atomic_files, locks, provenance


@dataclass(frozen=True)
class Output:
    """Files that a command makes of a pair, with their provenance in STEM.json: removed first, written last.

    kind: of the provenance. stem: path of the files without their endings. identity: what decides whether two outputs
    are the same thing. tables: CSV files with the columns that they must have; files: others.
    """

    kind: str
    stem: Path
    identity: Mapping[str, Any]
    tables: Mapping[Path, Sequence[str]]
    files: Sequence[Path] = field(default=())

    @property
    def beside(self) -> Path:
        return self.stem.with_name(f"{self.stem.name}.json")

    def there(self, overwrite: bool = False) -> bool:
        """Whether all of it is there already; UserError for results of other settings and for outdated tables."""
        if overwrite or not self.beside.exists():
            return False
        for path, columns in self.tables.items():
            if path.exists() and (lacking := set(columns) - set(header(path))):
                raise UserError(
                    f"{path} is outdated: it has no column {', '.join(sorted(lacking))}. Run this again with "
                    "--overwrite, or use another --output."
                )
        same = provenance.same_output(self.beside, self.kind, self.identity)
        return same and all(path.exists() for path in (*self.tables, *self.files))

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """No other process works on it meanwhile (UserError if one does); see locks.alone."""
        return locks.alone(self.stem.with_name(f".{self.stem.name}.lock"), self.stem.parent)

    @contextlib.contextmanager
    def written(self, keep: bool = False, **record: Any) -> Iterator[dict[str, Any]]:
        """Write the files inside; the provenance (the value of this context) follows them.

        What is replaced is gone first, so that no table stands without its provenance. keep: the old ones stay till
        then, since what the provenance says is true of the new files, too.
        """
        about = provenance.of(self.kind, self.identity, **record)
        for path in () if keep else (self.beside, *self.tables):
            path.unlink(missing_ok=True)
        yield about
        atomic_files.write_text(self.beside, atomic_files.to_json(about))


def header(path: Path) -> list[str]:
    """Column names of a CSV that we wrote."""
    with path.open(encoding="utf-8") as file:
        return file.readline().rstrip("\n").split(",")
