"""report/evidence.py: finished pairs go into the committed tables, two runs at once lose none, other folders are one error."""

import json
import threading
import time

import pandas as pd
import pytest

from ntps.errors import UserError
from ntps.system import locks, provenance
from report import evidence, reference, which_model


def table(*datasets):
    return {"best.csv": pd.DataFrame({"model": "m", "dataset": datasets, "layer": 0})}


def test_pairs_take_the_place_of_older_ones_and_others_stay(tmp_path):
    evidence.add(table("a", "b"), tmp_path)
    evidence.add({"best.csv": table("b")["best.csv"].assign(layer=1)}, tmp_path)
    found = pd.read_csv(tmp_path / "best.csv")
    assert found["dataset"].tolist() == ["a", "b"] and found["layer"].tolist() == [0, 1]


def test_of_two_at_once_one_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "tables", lambda *_: table("a"))
    monkeypatch.setattr(evidence, "WAIT", 20)
    held = threading.Event()

    def other():
        with locks.locked(tmp_path / ".evidence.lock"):
            held.set()
            time.sleep(0.5)
            evidence.add(table("b"), tmp_path)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    assert evidence.main("results", str(tmp_path)) == 0
    thread.join()
    assert pd.read_csv(tmp_path / "best.csv")["dataset"].tolist() == ["a", "b"]
    monkeypatch.setattr(evidence, "WAIT", 0.1)
    with locks.locked(tmp_path / ".evidence.lock"), pytest.raises(UserError, match="another process"):
        evidence.main("results", str(tmp_path))
    assert evidence.main("results", str(tmp_path)) == 0


def test_folders_without_finished_pairs_are_one_error(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="has no finished pairs"):
            evidence.main(str(folder), str(tmp_path / "out"))
        with pytest.raises(UserError, match="no scores of whole layers|no scores"):
            reference.reference([str(folder)])
        with pytest.raises(UserError, match="has no scores of candidates"):
            which_model.main(run=str(folder), folder="results/evidence", docs=str(tmp_path))


def test_tables_of_an_earlier_version_are_one_error(tmp_path):
    for kind in ("ntps", "accuracy/linear_training"):
        (tmp_path / kind / "m").mkdir(parents=True)
        (tmp_path / kind / "m/d.csv").write_text("model,dataset,layer\nm,d,0\n")
    with pytest.raises(UserError, match="has no column order, rule.*run K_sweep.py with --overwrite"):
        evidence.main(str(tmp_path), str(tmp_path / "out"))


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def trained_later(folder, weights, rows="m,d,0,0.5\n"):
    """A folder with nothing but LoRA's table of the pair m x d, trained from these weights."""
    identity = {"model": {"weights": weights}, "data": {"texts_sha256": {"train": "a", "test": "b"}}}
    about = {"format": f"ntps accuracy {provenance.FORMAT}", "identity": identity}
    written(folder / "accuracy/lora_finetuning/m/d.csv", f"model,dataset,seed,accuracy\n{rows}")
    written(folder / "accuracy/lora_finetuning/m/d.json", json.dumps(about))


def test_lora_joins_the_pair_of_an_earlier_folder(tmp_path):
    """Scores and probes stand in the output; the folder they came from is gone."""
    run, output = tmp_path / "run", tmp_path / "out"
    trained_later(run, "w")
    with pytest.raises(UserError, match="has no finished pairs"):
        evidence.main(str(run), str(output))
    written(output / "head.csv", "model,dataset\nm,d\n")
    written(output / "facts.csv", "model,dataset,weights,train_sha256,test_sha256\nm,d,w,a,b\n")
    assert evidence.main(str(run), str(output)) == 0
    assert pd.read_csv(output / "lora.csv")["accuracy"].tolist() == [0.5]
    assert sorted(path.name for path in output.glob("*.*v")) == ["facts.csv", "head.csv", "lora.csv"]
    trained_later(run, "others")
    with pytest.raises(UserError, match="of other weights or rows .* of m x d"):
        evidence.main(str(run), str(output))


def test_a_further_seed_joins_the_earlier_ones(tmp_path):
    output = tmp_path / "out"
    written(output / "head.csv", "model,dataset\nm,d\nm,e\n")
    written(output / "facts.csv", "model,dataset,weights,train_sha256,test_sha256\nm,d,w,a,b\n")
    written(output / "lora.csv", "model,dataset,seed,accuracy\nm,d,0,0.5\nm,d,1,0.6\nm,e,0,0.7\n")
    trained_later(tmp_path / "run", "w", "m,d,1,0.8\nm,d,2,0.9\n")
    assert evidence.main(str(tmp_path / "run"), str(output)) == 0
    found = pd.read_csv(output / "lora.csv")
    assert found["dataset"].tolist() == ["d", "d", "d", "e"] and found["seed"].tolist() == [0, 1, 2, 0]
    assert found["accuracy"].tolist() == [0.5, 0.8, 0.9, 0.7]
    # a pair that was measured again from its start goes whole
    lora = evidence.with_seeds(
        pd.DataFrame({"model": ["m"], "dataset": "d", "seed": 1}), output / "lora.csv", set()
    )
    assert lora["seed"].tolist() == [1]
