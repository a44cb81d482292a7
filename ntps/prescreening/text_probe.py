"""A linear probe on the mean states of one layer, as a scikit-learn estimator that takes texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.metrics import accuracy_score, r2_score
from sklearn.preprocessing import MultiLabelBinarizer, StandardScaler
from sklearn.utils.validation import check_is_fitted

from ntps.accuracies.layer_probes import FLOOR, fitting, new_logistic, read_states
from ntps.errors import UserError, boundary
from ntps.flags import LayerProbes
from ntps.moments.lazy_model import LazyModel
from ntps.moments.pair import Cached
from ntps.prescreening.rows import short
from ntps.scores import probes
from ntps.scores.layer_moments import LayerMoments
from ntps.system import array_files, atomic_files, provenance
from ntps.texts.dataset import Dataset

SUFFIX = ".safetensors"


class TextProbe(BaseEstimator):
    """Predicts from B^T m + b, m the mean state (d,) of a text at one layer of a model.

    target: classes (logistic regression on scaled states, as linear_sklearn.py's), multilabel (one a label) or numeric (ridge,
    its strength by generalized cross-validation). Fitted: classes_ (C,), coefficients_ B (d, C), intercept_ b (C,); of two
    classes the first has coefficients 0. The model is read when it is first needed, and is not part of a pickle.
    """

    def __init__(
        self, model: str, layer: int, target: str = "classes", max_length: int | None = None, device: str = "auto",
        dtype: str | None = None, seed: int = 42, pooling: str = "mean",
    ):  # fmt: skip
        self.model, self.layer, self.target = model, layer, target
        self.max_length, self.device, self.dtype, self.seed = max_length, device, dtype, seed
        self.pooling = pooling

    @classmethod
    def of(
        cls, model: str, cached: Cached, layer: int, data: Dataset, originals: Mapping[str, Any]
    ) -> TextProbe:
        """Fitted on the kept states of train. originals: what to call a class, if not as in `data`."""
        if not cached.states:
            raise UserError(f"no states of {cached.pair}: run {cached.cache_command()}")
        known = cached.train.identity
        same = {"max_length": known["max_length"], "dtype": known["dtype"]}
        probe = cls(model, layer, data.target, **same, pooling=(provenance.UNSAID | known)["pooling"])
        states, labels = read_states(cached.states["train"], cached.train.layers.index(layer))
        if data.numeric:
            labels = labels + data.provenance["label_mean"]  # as in the file
        names = [originals.get(name, name) for name in data.classes]
        several = len(set(map(type, names))) > 1  # 1 and "a", of which numpy would make "1" and "a"
        classes = np.array(names, dtype=object if several else None)
        return probe.fit_states(states, labels, classes, known["model"])

    def fit(self, X: Sequence[str], y: Any) -> TextProbe:
        """To texts and their labels; several a text are lists of labels, or a matrix of 0 and 1 (n, C)."""
        self.identity_: dict[str, Any] = {}
        texts, (classes, labels) = as_texts(X), encoded(y, self.target)
        if len(texts) != len(labels):
            raise UserError(f"{len(texts)} texts and {len(labels)} labels: give one a text")
        return self.fit_states(self.transform(texts), labels, classes, self.source.identity)

    def fit_states(
        self, states: np.ndarray, labels: np.ndarray, classes: np.ndarray, model: dict[str, Any]
    ) -> TextProbe:
        """To mean states (n, d) and labels as in a Split; model: the identity of what made the states."""
        self.identity_ = model
        if self.target == "numeric":
            self._fit_ridge(states, labels.astype(np.float64))
            return self
        scaler = StandardScaler().fit(states)
        settings = LayerProbes(models=[], datasets=[], seed=self.seed).settings
        with fitting():
            fitted: Any = new_logistic(labels, **settings).fit(scaler.transform(states), labels)
        if self.target == "multilabel":
            B, b = np.zeros((states.shape[1], len(classes))), np.zeros(len(classes))
            for place, one in enumerate(fitted.estimators_):
                if hasattr(one, "coef_"):
                    B[:, place], b[place] = one.coef_[0], one.intercept_[0]
                else:
                    b[place] = -FLOOR if labels[0, place] else FLOOR
        else:
            B, b, classes = fitted.coef_.T, fitted.intercept_, classes[fitted.classes_]
            if B.shape[1] == 1:  # two classes: the second one's log-odds
                B, b = np.hstack([0 * B, B]), np.append(0, b)
        self.classes_ = classes
        self.coefficients_ = B / scaler.scale_[:, None]
        self.intercept_ = b - scaler.mean_ @ self.coefficients_
        return self

    def _fit_ridge(self, states: np.ndarray, y: np.ndarray) -> None:
        n, mean = len(y), y.mean()
        values = {"mean_second_moment": states.T @ states / n, "mean_state": states.mean(0)}
        values |= {"mean_label_moment": states.T @ (y - mean)[:, None] / n, "class_counts": np.zeros(1)}
        values = {name: torch.as_tensor(value) for name, value in values.items()}
        fitted = probes.ridge(LayerMoments(**values, label_second_moment=float(y.var()), text_count=n))
        self.coefficients_, self.intercept_ = fitted.coefficients.numpy(), fitted.intercept.numpy() + mean

    @cached_property
    def source(self) -> LazyModel:
        """The model up to its layer."""
        found = LazyModel(self.model, None, self.device, self.dtype, self.max_length, str(self.layer))
        if known := getattr(self, "identity_", {}):
            what = f"the probe was fitted on another model than {self.model}"
            provenance.check_same(what, known, found.identity, "Fit it again")
        return found

    def transform(self, X: Sequence[str]) -> np.ndarray:
        """States (n, d) of texts: of their tokens the mean, or what `pooling` says as for cache.py."""
        ids, _ = self.source.tokenize(as_texts(X))
        return self.source.states(ids, self.pooling)

    def decision_function(self, X: Sequence[str]) -> np.ndarray:
        """B^T m + b, (n, C)."""
        check_is_fitted(self, "coefficients_")
        return self.transform(X) @ self.coefficients_ + self.intercept_

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """(n, C), columns as classes_; of several labels a text each on its own."""
        if self.target == "numeric":
            raise UserError("a probe of numbers has no probabilities")
        scores = self.decision_function(X)
        return expit(scores) if self.target == "multilabel" else softmax(scores, axis=1)

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """Classes or numbers (n,), or which labels a text has, 0 and 1 (n, C)."""
        scores = self.decision_function(X)
        if self.target == "multilabel":
            return (scores > 0).astype(int)
        return scores[:, 0] if self.target == "numeric" else self.classes_[scores.argmax(1)]

    def score(self, X: Sequence[str], y: Any) -> float:
        """Accuracy, of several labels a text (n, C) the share of texts with all labels right; R2 of numbers."""
        return float((r2_score if self.target == "numeric" else accuracy_score)(y, self.predict(X)))

    def save(self, path: str | Path) -> Path:
        """Write PATH.safetensors, B and b with all else as JSON in its header, and the JSON beside it; its path.

        UserError where classes are neither texts nor numbers.
        """
        path = probe_file(path)
        classes = [] if self.target == "numeric" else self.classes_.tolist()
        identity = {"model": self.identity_, "classes": classes, "estimator": self.get_params()}
        with boundary(f"the classes {short(classes)} cannot be saved", "fit it on texts or numbers"):
            about = provenance.of("probe", json.loads(json.dumps(identity)))
        array_files.write(path, {"coefficients": self.coefficients_, "intercept": self.intercept_}, about)
        atomic_files.write_text(path.with_suffix(".json"), atomic_files.to_json(about))
        return path

    @classmethod
    def load(cls, path: str | Path) -> TextProbe:
        """What `save` wrote. UserError for another file, and, when the model is read, for another model of that name."""
        path = probe_file(path)
        identity = provenance.read(path, "probe")["identity"]
        array_files.verify(path, finite=True)
        try:
            probe = cls(**identity["estimator"])
            probe.identity_, probe.classes_ = identity["model"], np.array(identity["classes"])
            with safe_open(path, "numpy") as file:
                probe.coefficients_, probe.intercept_ = (
                    file.get_tensor(name) for name in ("coefficients", "intercept")
                )
            shape = (probe.coefficients_.shape[1:], probe.coefficients_.shape[-1])
            if shape != (probe.intercept_.shape, len(probe.classes_) or 1):
                raise ValueError("its arrays do not fit its classes")
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"{path} is damaged: {error}. {provenance.REMEDY}") from None
        return probe

    def set_params(self, **params: Any) -> TextProbe:
        self.__dict__.pop("source", None)
        return super().set_params(**params)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "source"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "regressor" if self.target == "numeric" else "classifier"
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


def probe_file(path: str | Path) -> Path:
    """PATH with the ending of its file."""
    path = Path(path)
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)


def as_texts(X: Any) -> list[str]:
    """UserError for what is no list of texts."""
    if isinstance(X, str):
        raise UserError(f"{X!r:.60} is one text: give a list of texts")
    listed = hasattr(X, "__iter__") and not isinstance(X, dict) and getattr(X, "ndim", 1) == 1
    texts: list[Any] = list(X) if listed else [X]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{short(X)} is no list of texts: give one text a row, and no other values")
    return texts


def encoded(y: Any, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and labels as in a Split; UserError for labels of another kind than the target."""
    with boundary(f"labels {short(y)} are no labels for target={target!r}"):
        return ENCODINGS[target](y)


def one_column(labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1 and labels.shape[1:] != (1,):
        raise ValueError(f"they have the shape {labels.shape}: give one a text")
    return labels.reshape(-1)


def of_numbers(y: Any) -> tuple[np.ndarray, np.ndarray]:
    labels = one_column(np.asarray(y, dtype=np.float64))
    if not np.isfinite(labels).all():
        raise ValueError("some are missing or not finite")
    return np.array([]), labels


def of_classes(y: Any) -> tuple[np.ndarray, np.ndarray]:
    labels = one_column(np.asarray(y, dtype=object))
    if pd.isna(labels).any():
        raise ValueError("some are missing")
    classes, places = np.unique(labels, return_inverse=True)  # TypeError for several types
    if len(classes) < 2:
        raise ValueError("give two classes or more")
    return np.array(classes.tolist()), places


def of_sets(y: Any) -> tuple[np.ndarray, np.ndarray]:
    if getattr(y, "ndim", 1) == 2:
        matrix = np.asarray(y)
        if not np.isin(matrix, (0, 1)).all():
            raise ValueError("a matrix of labels holds 0 and 1 alone")
        return np.array(getattr(y, "columns", range(y.shape[1]))), matrix.astype(bool)
    binarizer = MultiLabelBinarizer()
    labels = binarizer.fit_transform(y).astype(bool)
    return binarizer.classes_, labels


ENCODINGS = {"classes": of_classes, "multilabel": of_sets, "numeric": of_numbers}
