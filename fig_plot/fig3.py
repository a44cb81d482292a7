# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Figure 3: NTPS against what LoRA adds
# Gain: test accuracy of `lora_finetuning.py` minus that of `linear_training.py`. Its rank is reversed, as in the paper: the
# claim is that a high score goes with a small gain.

# %%
import os
import sys

sys.path.insert(0, "..")  # the notebook runs in fig_plot/
from fig_plot import notebook, paper

# %% tags=["parameters"]
RESULTS = os.environ.get("RESULTS", "../results")  # the folder that the scripts wrote to

# %%
folder = notebook.results(RESULTS)
notebook.show(paper.figure3(folder), folder)
