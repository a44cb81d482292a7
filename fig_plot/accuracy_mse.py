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
# # The probe's accuracy against its MSE
# Figure 2 has one panel for each of the two; do they tell the same of the data sets?

# %%
import os
import sys

sys.path.insert(0, "..")  # the notebook runs in fig_plot/
from fig_plot import beyond, notebook

# %% tags=["parameters"]
RESULTS = os.environ.get("RESULTS", "../results")  # the folder that the scripts wrote to

# %%
folder = notebook.results(RESULTS)
notebook.show([("accuracy_mse", beyond.accuracy_mse_figure(folder))], folder)
