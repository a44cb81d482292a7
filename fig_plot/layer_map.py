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
# # Where the correlation lies: layer and share of the directions
# Spearman's correlation with the probe's accuracy at every place that the paper's rule may choose from, for NTPS and for
# retention. Look for a region: one bright cell among dark ones is luck.

# %%
import os
import sys

sys.path.insert(0, "..")  # the notebook runs in fig_plot/
from fig_plot import beyond, notebook

# %% tags=["parameters"]
RESULTS = os.environ.get("RESULTS", "../results")  # the folder that the scripts wrote to

# %%
folder = notebook.results(RESULTS)
for score in ("ntps", "retention"):
    notebook.show([(f"layer_map_{score}", beyond.correlation_map(folder, score=score))], folder)
