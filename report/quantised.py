"""A copy of a model folder whose weight matrices have few bits: what quantisation does to the scores.

    python -m report.quantised ~/.cache/ntps/models/gemma3-270m-... quantised/gemma3-270m-3bit --bits 3
    python cache.py --models ./quantised/gemma3-270m-3bit --datasets trec6 ...

Each row of a matrix (also of the embeddings) is rounded in groups of 32 numbers to 2^(bits - 1) - 1 steps up and down of the group's
largest absolute value; norms and biases stay. The copy is stored in the folder's own dtype, so that only the values differ.
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ntps.errors import UserError
from ntps.run import cli

GROUP = 32


def main(model: str, output: str, bits: int = 4) -> int:
    """Quantise and dequantise the weights of a model.

    Args:
        model: a folder with config.json and model.safetensors
        output: the folder of the copy
        bits: of each weight, 2 to 8
    """
    source, target = Path(model), Path(output)
    if not (source / "model.safetensors").exists():
        raise UserError(f"{model} has no model.safetensors: give a folder of one file of weights")
    if not 2 <= bits <= 8:
        raise UserError(f"--bits: 2 to 8, not {bits}")
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*"):
        if path.suffix in (".json", ".jinja", ".model", ".txt", ".md", ".html"):
            shutil.copy2(path, target / path.name)
    weights = {name: rounded(value, bits) for name, value in load_file(source / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    print(f"wrote {target}: {bits} bits a weight, in groups of {GROUP}")
    return 0


def rounded(weight: Tensor, bits: int) -> Tensor:
    """(rows, columns) rounded in groups of a row; what is no matrix, or not of whole groups, as it is."""
    if weight.ndim != 2 or weight.shape[1] % GROUP:
        return weight
    groups = weight.float().reshape(len(weight), -1, GROUP)
    step = groups.abs().amax(2, keepdim=True) / (2 ** (bits - 1) - 1)
    whole = (groups / torch.where(step > 0, step, 1.0)).round()
    return (whole * step).reshape(weight.shape).to(weight.dtype)


if __name__ == "__main__":
    sys.exit(cli.run(main))
