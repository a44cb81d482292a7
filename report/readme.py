"""What README.md says that commands print, from those commands: python -m report.readme (make readme; minutes).

A block `<!-- prints: COMMAND --> ... <!-- /prints -->` is given the first table that the command prints, and what follows it
up to the second or to the names of the files that it wrote.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from ntps.errors import UserError
from ntps.run import cli
from ntps.system import atomic_files

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- prints: (.*?) -->\n).*?(<!-- /prints -->)", re.DOTALL)
NOTE = re.compile(r"^note: .*\n?", re.MULTILINE)  # of the committed results, not of a reader's own
SECOND = "\nThe scores as in the paper:"  # the first table is enough for a README
TABLE = re.compile(r"^ *(rank|model) {2,}", re.MULTILINE)


def main(page: str = "README.md") -> int:
    """Run the commands of a page's blocks and write what they print.

    Args:
        page: the Markdown file, relative to the project's folder
    """
    path = ROOT / page
    atomic_files.write_text(path, BLOCK.sub(filled, path.read_text(encoding="utf-8")))
    print(f"wrote {path}")
    return 0


def filled(block: re.Match) -> str:
    """The block with its command's table, indented as code."""
    return f"{block[1]}\n{indented(printed(block[2]))}\n\n{block[3]}"


def printed(command: str) -> str:
    """What a command prints from its table on; UserError if it fails or prints none."""
    words = shlex.split(command)
    words[0] = sys.executable if words[0] == "python" else words[0]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    table = TABLE.search(done.stdout)
    if done.returncode or table is None:
        raise UserError(f"{command} prints no table (exit code {done.returncode})")
    shown = done.stdout[table.start() :].split("\nwrote ")[0].split(SECOND)[0]
    return NOTE.sub("", shown).rstrip()


def indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(cli.run(main))
