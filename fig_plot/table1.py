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
# # Table 1: a linear probe on the frozen model against training from scratch

# %%
import os
import sys

sys.path.insert(0, "..")  # the notebook runs in fig_plot/
from fig_plot import notebook, paper

# %% tags=["parameters"]
RESULTS = os.environ.get("RESULTS", "../results")  # the folder that the scripts wrote to

# %%
folder = notebook.results(RESULTS)
paper.table1(folder).style.format("{:.3f}", na_rep="missing")

# %%
notebook.show([("table1", paper.table1_figure(folder))], folder)
