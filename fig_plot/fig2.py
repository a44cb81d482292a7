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
# # Figure 2: NTPS against the linear probe
# One panel a model, one number a data set. Three figures each for accuracy and MSE: layer and kv chosen as in the paper
# (on the same data sets), fixed beforehand, and held out. Published values come with one choice that is not told.

# %%
import os
import sys

sys.path.insert(0, "..")  # the notebook runs in fig_plot/
from fig_plot import notebook, paper

# %% tags=["parameters"]
RESULTS = os.environ.get("RESULTS", "../results")  # the folder that the scripts wrote to

# %%
folder = notebook.results(RESULTS)
notebook.show(paper.figure2(folder, "accuracy"), folder)

# %%
notebook.show(paper.figure2(folder, "mse"), folder)
