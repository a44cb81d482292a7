"""Rows of one file: of the user's own by their ending, of those in a wheel by the reader that a description names."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import sys
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ntps.sources.patterns import Pattern
from ntps.sources.yaml_files import suggest
from ntps.texts.columns import named_columns

Row = dict[str, Any]
Spec = dict[str, Any]  # the checked keys of a description
LARGEST = 2**31  # bytes of a packed file, unpacked
SHEET = 2**20  # rows of an Excel sheet, at most
CELL = 64  # bytes that a value takes in Python, at least
HEADER = 100_000  # characters in which the header ends: below the longest field of the csv module
ARRAY = re.compile(r"\s*\[")
DELIMITED = (".csv", ".tsv")
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
UNPACK: dict[str, Callable[[Path], Any]] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
MARKS = {  # of the beginning of a file: UTF-32 first, whose mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


def _lines(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    pattern = Pattern(spec["pattern"], where, "pattern")
    # Split at newlines only: str.splitlines would also cut at characters that occur inside these texts.
    for line in content.decode(spec.get("encoding", "utf-8")).split(spec.get("separator", "\n")):
        if match := pattern("fullmatch", line.rstrip("\r")):
            yield match.groupdict()


def _first_line(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    yield {"first_line": content.split(b"\n", 1)[0].decode(spec.get("encoding", "utf-8"))}


def _xml(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    """A row for each <item>: attributes, texts of its children, and as `top` the <name> of the outermost."""
    for top in ElementTree.fromstring(content):
        for item in top.iter("item"):
            children = {child.tag: child.text for child in item if child.tag != "item"}
            yield {**item.attrib, **children, "top": top.findtext("name")}


def _sqlite(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    """Rows of `table`, read in memory; views, virtual tables and generated columns, which run code of the file's, are not."""
    import sqlite3  # some builds of Python lack it

    stored = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0"
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(content)
            if (table := spec["table"]) not in (names := [name for (name,) in database.execute(stored)]):
                raise ValueError(f"it has no table {table!r}; {suggest(table, names)}")
            columns = [name for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", [table])]
            chosen = ", ".join(map(_quoted, columns))
            size = 0
            for values in database.execute(f"SELECT {chosen} FROM {_quoted(table)}"):
                size += sum(CELL + (len(value) if isinstance(value, str | bytes) else 0) for value in values)
                bounded(size)  # a default of a column is stored once
                yield dict(zip(columns, values))
    except sqlite3.Error as error:
        raise ValueError(str(error)) from error


def _quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


WHEEL_READERS: dict[str, Callable[[bytes, Spec, Path], Iterable[Row]]] = {
    "lines": _lines, "first_line": _first_line, "xml": _xml, "sqlite": _sqlite,
    "jsonl": lambda content, spec, where: _json(content, spec, []),
    "csv": lambda content, spec, where: _csv(content, spec, []),
    "tsv": lambda content, spec, where: _tsv(content, spec, []),
}  # fmt: skip


def rows_of(path: Path, content: bytes, spec: Spec) -> tuple[list[Row], list[str]]:
    """Rows of one of the user's files, and what was recognised beyond its ending. Values stay as they are written."""
    notes: list[str] = []
    content = _unpacked(content, notes)
    return FILE_READERS[without_gz(path).suffix.lower()](content, spec, notes), notes


def _unpacked(content: bytes, notes: list[str]) -> bytes:
    if content.startswith(b"\x1f\x8b"):
        content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
        notes.append("gzip")
        bounded(len(content))
    return content


def bounded(size: int) -> None:
    """A small packed file may hold any number of bytes."""
    if size > LARGEST:
        raise ValueError(f"it holds more than {LARGEST >> 20} MiB: unpack it, or save it as CSV")


def check_size(path: Path, parquet: bool) -> None:
    """ValueError where a file that `datasets` is to read holds too much, packed, or is packed in a way that is not looked into."""
    from datasets.utils.extract import Extractor

    if parquet:
        for _ in bounded_batches(path):
            pass
    elif packed := Extractor.infer_extractor_format(path):
        if packed not in UNPACK:
            raise ValueError(f"{path.name} is a {packed} file: unpack it")
        size = 0
        with UNPACK[packed](path) as content:
            while part := content.read(1 << 20):
                bounded(size := size + len(part))


def without_gz(path: Path) -> Path:
    """The path whose ending says what is in a file, and whose stem is its name."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def csv_options(path: Path, spec: Spec, notes: list[str]) -> dict[str, str]:
    """Encoding and delimiter of a CSV or TSV file, for another reader."""
    content = _unpacked(path.read_bytes(), notes)
    text = _text(content, spec, notes)
    usual = "\t" if without_gz(path).suffix.lower() == ".tsv" else ","
    delimiter = _delimiter(text, spec, notes, usual)
    _check_lines(text, delimiter)
    _names(_header(text, delimiter))
    return {"encoding": _encoding(content, spec), "sep": delimiter}


def _encoding(content: bytes, spec: Spec) -> str:
    """That which the description names, or the mark at the beginning, or else UTF-8."""
    marked = (name for mark, name in MARKS.items() if content.startswith(mark))
    return spec.get("encoding") or next(marked, "utf-8")


def _text(content: bytes, spec: Spec, notes: list[str]) -> str:
    """Decoded, without its mark; ValueError where the bytes are of another encoding."""
    encoding = _encoding(content, spec)
    if "\0" in content[:100].decode(encoding, "replace"):
        raise ValueError(f"it is not {encoding}; is it encoding: utf-16-le (flag --encoding)?")
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        place = getattr(error, "start", 0)
        near = content[max(0, place - 20) : place + 20].decode("cp1252", "replace")
        raise ValueError(
            f"it is not {encoding}; encoding: cp1252 (flag --encoding) would read {near!r}"
        ) from error
    if encoding != spec.get("encoding", "utf-8"):
        notes.append(encoding)
    elif spec.get("encoding") and text != _as_utf8(content, text):
        notes.append(f"{encoding}, though it is valid UTF-8")
    return text


def _as_utf8(content: bytes, otherwise: str) -> str:
    """The bytes as UTF-8 text; `otherwise` where they are none, or ASCII, as those of encodings of 7 bits."""
    try:
        return otherwise if content.isascii() or b"\0" in content else content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return otherwise


def _names(header: Iterable[Any]) -> list[str]:
    """Those of the columns; one without a name gets that which pandas gives it."""
    names = [str(name or "").strip() or f"Unnamed: {place}" for place, name in enumerate(header)]
    _once_each(names)
    return names


def _once_each(names: Iterable[str]) -> None:
    """ValueError for two columns of one name."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"it has two columns {twice[0]!r}: rename one")


def _table(header: Iterable[Any], lines: Iterable[Iterable[Any]]) -> list[Row]:
    """Rows by the names in the header."""
    names = _names(header)
    rows = [dict(zip(names, line)) for line in lines]
    if len(names) > 1 and (
        again := next((n for n, row in enumerate(rows, 1) if [*row.values()] == names), None)
    ):
        raise ValueError(
            f"row {again} after the header is the header again, as of two files in one: take it out"
        )
    return rows


def _header(text: str, delimiter: str) -> list[str]:
    """Names of the columns, in the first line that is not blank."""
    lines = csv.reader(io.StringIO(text[:HEADER], newline=""), delimiter=delimiter)
    return [name.strip() for name in next(filter(any, lines), [])]


def _delimiter(text: str, spec: Spec, notes: list[str], usual: str) -> str:
    """The one given; else that which cuts the header into all columns that the description names.

    At most one does, but for a header that repeats itself. Where none does, reading ends in an error, which names the
    columns as the usual delimiter has them, or else the one that finds most.
    """
    given: str = spec.get("delimiter", "")
    if given:
        return DELIMITERS.get(given, given)
    headers = {mark: _header(text, mark) for mark in (usual, *DELIMITERS.values())}
    fits = (m for m, known in headers.items() if all(name in known for _, name in named_columns(spec, known)))
    most = usual if headers[usual][1:] else max(headers, key=lambda mark: len(headers[mark]))
    if (found := next(fits, most)) != usual:
        notes += [f"delimiter {name}" for name, mark in DELIMITERS.items() if mark == found]
    return found


def _csv(content: bytes, spec: Spec, notes: list[str], usual: str = ",") -> list[Row]:
    import pandas as pd

    text = _text(content, spec, notes)
    delimiter = _delimiter(text, spec, notes, usual)
    _check_lines(text, delimiter)
    # Everything is text, nothing is guessed: "NA" is a word, "01" is not 1. Too many fields are an error.
    raw = content if _encoding(content, spec) == "utf-8" else text.encode()
    # dtype object takes a third of the time of str.
    options: dict[str, Any] = {"sep": delimiter, "header": None, "dtype": object, "index_col": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        table = pd.read_csv(io.BytesIO(raw), na_filter=False, **options)
    lines = table.itertuples(index=False, name=None)
    return _table(next(lines), lines)


def _check_lines(text: str, delimiter: str) -> None:
    """ValueError where rows end in several ways, or where a quote that is never closed makes several rows the text of one.

    Such a quote ends at the next one, in a later line, after which text goes on; both lines look like rows. Or it ends where
    another one ends a field: three lines and more then are one row, though each has the columns of one (told of tabs and |
    alone: lines of prose have commas). Other quotes inside quoted fields are left as the reader takes them.
    """
    unified = re.sub(r"(?<!\r)\r++\n", "\n", text).rstrip("\r\n")
    if "\r" in unified and "\n" in unified:
        quoted = rf'(?<![^\r\n{re.escape(delimiter)}])"(?:[^"]++|"")*+"'
        bare = re.sub(quoted, "", unified)
        if "\r" in bare and "\n" in bare:
            near = bare[max(0, bare.index("\r") - 20) :][:40]
            raise ValueError(
                f"it has a bare \\r outside quotes, in {near!r}, though its lines end in \\n: quote all fields (pandas: "
                "quoting=1), or save it as JSON Lines"
            )
    if '"' not in text:
        return
    lines, start, limit = io.StringIO(text, newline="").readlines(), 0, csv.field_size_limit(sys.maxsize)
    columns, left = len(_header(text, delimiter)), iter(lines)
    try:
        while start < len(lines):
            rows, whole = csv.reader(left, delimiter=delimiter, strict=True), 0
            try:
                for _ in rows:
                    one = lines[start + whole : start + rows.line_num]
                    if (
                        delimiter in "\t|"
                        and len(one) > 2
                        and {line.count(delimiter) for line in one} == {columns - 1} != {0}
                    ):
                        raise ValueError(f"lines {start + whole + 1} to {start + rows.line_num} are one row by the quotes around them, though "
                                         "each has the columns of one: double quotes inside quoted fields, or save it as JSON Lines")  # fmt: skip
                    whole = rows.line_num
                return
            except csv.Error as error:
                first, start = start + whole, start + rows.line_num
                last = lines[start - 1 : start + 99]
                if start - 1 > first and _are_rows(lines[first], last, delimiter, columns):
                    raise ValueError(f"the quote in line {first + 1} is not closed, and lines to {start} would become its text: double quotes "
                                     "inside quoted fields, or save it as JSON Lines") from error  # fmt: skip
    finally:
        csv.field_size_limit(limit)


def _are_rows(first: str, last: list[str], delimiter: str, columns: int) -> bool:
    """Whether a line and a later one, up to whose first quote one quoted field would go, look like rows of their own.

    Both have as many delimiters as the header, or the first has more, as texts may, and the later one begins a row whose
    quoted field it is. In a text of several lines with quotes in it such a quote has more text around it.
    """
    if not first.count(delimiter) >= columns - 1 > 0:
        return False
    try:
        row = next(csv.reader(last, delimiter=delimiter, strict=True))
    except csv.Error:
        row = []
    before = last[0].partition('"')[0]
    begins = len(row) == columns and (not before or before.endswith(delimiter))
    return begins or first.count(delimiter) == last[0].count(delimiter) == columns - 1


def _tsv(content: bytes, spec: Spec, notes: list[str]) -> list[Row]:
    return _csv(content, spec, notes, "\t")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; ValueError for a key that stands twice, of which JSON keeps the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"key {twice!a:.60} stands twice")
    return found


def _json(content: bytes, spec: Spec, notes: list[str]) -> list[Row]:
    """JSON Lines, or one array of objects, as `to_json(orient="records")` of pandas writes it."""

    def loads(part: str, what: str) -> Any:
        try:
            # numbers stay as they are written
            return json.loads(part, parse_int=str, parse_float=str, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deep
            raise ValueError(f"{what} is not JSON: {error}") from error

    text = _text(content, spec, notes)
    if ARRAY.match(text):
        notes.append("a JSON array")
        rows = {f"item {number}": row for number, row in enumerate(loads(text, "its array"), 1)}
    else:
        lines = {f"line {number}": line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
        rows = {name: loads(line, name) for name, line in lines.items()}
    if other := [name for name, row in rows.items() if not isinstance(row, dict)]:
        raise ValueError(f'{other[0]} is not an object such as {{"text": "...", "label": "..."}}')
    return list(rows.values())


def _parquet(content: bytes, spec: Spec, notes: list[str]) -> list[Row]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
    there = file.schema_arrow.names
    _once_each(there)
    named = list(dict.fromkeys(name for _, name in named_columns(spec, there)))
    columns = named if set(named) <= set(there) else there  # else the error names all that there are
    if file.metadata.num_rows * len(columns) * CELL > LARGEST:
        raise ValueError(
            f"its {file.metadata.num_rows} rows of {', '.join(columns)} do not fit in memory: save fewer rows"
        )
    return [
        row for batch in bounded_batches(pyarrow.BufferReader(content), columns) for row in batch.to_pylist()
    ]


def bounded_batches(source: Any, columns: list[str] | None = None) -> Iterator[Any]:
    """Batches of a Parquet file; ValueError once they hold too much: a text that all rows share is stored once, and so it is
    read until its size is known."""
    import pyarrow.parquet

    texts = [column.name for column in pyarrow.parquet.read_schema(source) if _is_text(column.type)]
    file = pyarrow.parquet.ParquetFile(source, read_dictionary=texts)
    size = 0
    for batch in file.iter_batches(100, columns=columns):
        bounded(size := size + sum(map(unfolded, batch.columns)))
        yield batch


def _is_text(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_binary(kind))


def unfolded(column: Any) -> int:
    """Bytes of a column of Parquet, each text as often as it stands there."""
    import pyarrow
    import pyarrow.compute

    if not pyarrow.types.is_dictionary(column.type):
        return int(column.nbytes)
    if not _is_text(column.dictionary.type):
        return int(column.dictionary_decode().nbytes)
    lengths = pyarrow.compute.binary_length(column.dictionary).cast("int64").take(column.indices)
    return int(pyarrow.compute.sum(lengths).as_py() or 0)


def _excel(content: bytes, spec: Spec, notes: list[str]) -> list[Row]:
    """Of the first sheet, as its cells hold them; lines without any are passed over."""
    try:
        import openpyxl
    except ImportError:
        raise ValueError("it takes openpyxl: pip install openpyxl==3.1.5") from None
    bounded(sum(part.file_size for part in zipfile.ZipFile(io.BytesIO(content)).infolist()))
    book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    sheet = book.worksheets[0]
    notes.append(f"sheet {sheet.title!r}" + (f" of {len(book.worksheets)}" if book.worksheets[1:] else ""))
    sheet.reset_dimensions()  # what a file says of its size may be wrong
    lines = (line for line in _of_sheet(sheet) if any(cell is not None for cell in line))
    return _table(next(lines, ()), lines)


def _of_sheet(sheet: Any) -> Iterator[tuple[Any, ...]]:
    """Its lines; ValueError for more than Excel has, which a file of a few bytes may claim."""
    for number, line in enumerate(sheet.iter_rows(values_only=True)):
        if number == SHEET:
            raise ValueError(f"its first sheet has a row beyond {SHEET}, the most of Excel: save it as CSV")
        yield line


FILE_READERS: dict[str, Callable[[bytes, Spec, list[str]], list[Row]]] = {
    ".csv": _csv, ".tsv": _tsv, ".jsonl": _json, ".json": _json, ".parquet": _parquet, ".xlsx": _excel,
}  # fmt: skip
