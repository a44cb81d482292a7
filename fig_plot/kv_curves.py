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
# # NTPS over kv, against chance and shuffled labels
# A score above chance says little by itself: what counts is the difference to shuffled labels, on the right.

# %%
import os
import sys

sys.path.insert(0, "..")  # the notebook runs in fig_plot/
from fig_plot import beyond, notebook

# %% tags=["parameters"]
RESULTS = os.environ.get("RESULTS", "../results")  # the folder that the scripts wrote to

# %%
folder = notebook.results(RESULTS)
notebook.show([("kv_curves", beyond.kv_figure(folder))], folder)
