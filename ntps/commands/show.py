"""Print what one of our files holds: python -m ntps.show FILE"""

import json
import sys

from safetensors import safe_open

from ntps.run import cli
from ntps.system import array_files, provenance
from ntps.system.console import visible
from ntps.system.paths import regular_file


def main(file: str) -> int:
    """Print the shapes and the provenance of an output, and check its hash.

    Args:
        file: a .safetensors file that cache.py or K_sweep.py wrote, or the .json beside a table
    """
    path = regular_file(file)
    about = provenance.read(path)
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as arrays:
            for name in sorted(arrays.keys()):
                part = arrays.get_slice(name)
                shape = "x".join(map(str, part.get_shape()))
                print(visible(f"{name:<24} {part.get_dtype():<4} {shape}"))
        print(f"{'sha256':<24} {array_files.verify(path) or 'none'}")
    print(visible(json.dumps(about, indent=1, ensure_ascii=False)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
