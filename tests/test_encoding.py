"""Tokens, batches, hidden states as they appear, and one pass over texts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

import ntps
from ntps.errors import UserError
from ntps.models.description import resolve_model
from ntps.models.loading import load_model, load_tokenizer
from ntps.moments import encoder as encoder_module
from ntps.moments.batches import Corpus, plan_batches, tokenize
from ntps.moments.encoder import Encoder, encode, find_blocks, rounding
from ntps.moments.sums import Moments, from_arrays
from tests.tiny import tiny_model, tiny_texts

CPU = torch.device("cpu")
NAMES = (
    "mean_second_moment",
    "mean_label_moment",
    "mean_state",
    "prefix_second_moment",
    "prefix_next_moment",
)


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2", "openelm"])
def model(request, tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp(request.param), request.param)
    return load_model(resolve_model(str(folder)), torch.float32, CPU)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def llama(llama_folder):
    spec = resolve_model(str(llama_folder))
    return load_model(spec, torch.float32, CPU), load_tokenizer(spec)


def random_ids(count=12, longest=40, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 90, draw.integers(1, longest + 1)) for _ in range(count)]


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80), st.integers(1, 4096))
def test_batches_hold_every_row_once_within_the_budget_longest_first(lengths, budget):
    batches = plan_batches(lengths, budget)
    planned = [lengths[row] for rows in batches for row in rows]
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert planned == sorted(lengths, reverse=True)
    tokens = [sum(lengths[row] for row in rows) for rows in batches]
    assert all(count <= budget or len(rows) == 1 for rows, count in zip(batches, tokens, strict=True))
    for count, rows in zip(tokens, batches[1:]):  # none is cut before it is full
        assert count + lengths[rows[0]] > budget


def hidden_states(model, ids):
    """(layers, n, d) of one text alone."""
    with torch.no_grad():
        output = model(input_ids=torch.as_tensor(ids)[None], output_hidden_states=True, use_cache=False)
    return torch.stack(output.hidden_states)[:, 0]


def states_of(encoder, ids):
    """The same of every text, from the encoder's passes over all of them."""
    lengths, found = np.array([len(text) for text in ids]), []
    for some in encoder.passes(lengths):
        layers: list[torch.Tensor] = []
        row = torch.from_numpy(np.concatenate(ids[some]))
        encoder.run(row, lengths[some], lambda place, states, layers=layers: layers.append(states.clone()))
        found += torch.stack(layers).split(lengths[some].tolist(), dim=1)
    return found


TEXTS = [np.arange(3, 15), np.arange(20, 32), np.arange(40, 45), np.arange(7, 8), np.arange(50, 55)]


@pytest.mark.parametrize("packs, passes", [(math.inf, 1), (0, 4)])
def test_every_layer_is_the_models_own_hidden_state_of_each_text_alone(model, packs, passes):
    encoder, usual = Encoder(model), model.config._attn_implementation
    assert encoder.packs == math.inf
    encoder.packs = packs
    assert len(encoder.passes(np.array([len(text) for text in TEXTS]))) == passes
    for text, states in zip(TEXTS, states_of(encoder, TEXTS), strict=True):
        assert torch.allclose(states, hidden_states(model, text), atol=1e-5)
    assert model.config._attn_implementation == usual


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 100}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}


@pytest.mark.parametrize(
    "kind, own",
    [
        ("bloom", {}),  # positions by bias, from the mask
        ("doge", {}),  # a mask that depends on the states
        (
            "gpt_neo",
            {"num_layers": 3, "num_heads": 4, "attention_types": [[["global"], 3]]},
        ),  # its own attention
        ("mistral", {"sliding_window": 4}),
        ("llama4_text", {"head_dim": 8, "attention_chunk_size": 4}),  # a window that only its mask knows
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_whose_texts_cannot_share_a_row_gets_them_by_length(kind, own, dtype):
    model = AutoModel.from_config(AutoConfig.for_model(kind, **SHAPE | own), dtype=dtype).eval()
    encoder = Encoder(model)
    assert not encoder.packs
    for text, states in zip(TEXTS, states_of(encoder, TEXTS), strict=True):
        expected = hidden_states(model, text)
        gap = (states - expected).float().norm() / expected.float().norm()
        assert float(gap) < (1e-5 if dtype == torch.float32 else 0.02)


RECURRENT = {
    "mamba": {"state_size": 4},
    "falcon_mamba": {"state_size": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 4},
    "rwkv": {"attention_hidden_size": 32, "rescale_every": 2},
    "xlstm": {"num_heads": 4, "num_blocks": 3},
    "recurrent_gemma": {
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "lru_width": 32,
        "intermediate_size": 64,
    },
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_recurrent_decoder_gives_what_enters_its_blocks_one_length_at_a_time(kind, capsys):
    """Mamba and RWKV list their hidden_states from after the first block: layer 0 is what it was given."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 100, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **shape | RECURRENT[kind])
    encoder = Encoder(AutoModel.from_config(config, dtype=torch.float32).eval())
    assert not encoder.packs and capsys.readouterr().out.count("one length at a time, which is slower: ") == 1
    late = kind in ("mamba", "falcon_mamba", "mamba2", "rwkv")
    for text, states in zip(TEXTS, states_of(encoder, TEXTS), strict=True):
        own = hidden_states(encoder.model, text)
        if late:
            embedded = encoder.model.get_input_embeddings()(torch.as_tensor(text)).detach()
            own = torch.stack([embedded, *own[:-2], own[-1]])
        assert torch.allclose(states, own, atol=1e-5)


def test_which_path_runs_is_said_once_and_why(llama_folder, capsys):
    model = load_model(resolve_model(str(llama_folder)), torch.float32, CPU)
    Encoder(model)
    assert not capsys.readouterr().out  # what is usual
    encoder = Encoder(
        AutoModel.from_config(AutoConfig.for_model("mistral", **SHAPE, sliding_window=12)).eval()
    )
    states_of(encoder, TEXTS)
    assert (
        capsys.readouterr().out
        == "MistralModel: its attention or positions change after 12 tokens: longer texts go one length at a time\n"
    )
    Encoder(AutoModel.from_config(AutoConfig.for_model("bloom", **SHAPE)).eval())
    assert capsys.readouterr().out.startswith("BloomModel: texts go one length at a time, which is slower: ")


@pytest.mark.parametrize(
    ("error", "slow"),
    [(TypeError("no such argument"), True), (RuntimeError("shapes"), True), (OSError("gone"), False),
     (RuntimeError("CUDA out of memory"), False), (ImportError("no kernel"), False)],
)  # fmt: skip
def test_only_what_a_model_says_to_texts_in_a_row_is_caught(llama_folder, monkeypatch, capsys, error, slow):
    model = load_model(resolve_model(str(llama_folder)), torch.float32, CPU)

    def fails(*_):
        raise error

    monkeypatch.setattr(encoder_module, "run_packed", fails)
    if slow:
        assert not Encoder(model).packs and str(error) in capsys.readouterr().out
    else:
        with pytest.raises(RuntimeError if "memory" in str(error) else UserError, match=str(error)):
            Encoder(model)


def test_a_model_whose_hidden_states_are_others_is_told_from_one_that_looks_ahead(llama_folder):
    model = load_model(resolve_model(str(llama_folder)), torch.float32, CPU)

    def doubled(module, args, output):
        if own := output.get("hidden_states"):
            output["hidden_states"] = tuple(2 * states for states in own)

    model.register_forward_hook(doubled)
    with pytest.raises(UserError, match="not what enters its blocks"):
        Encoder(model)


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa"])
def test_a_forward_pass_that_fails_is_one_error(kind):
    sparse = {
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    sparse |= {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "index_head_dim": 16,
    }
    config = AutoConfig.for_model(
        kind, **SHAPE | sparse, moe_intermediate_size=16, index_n_heads=2, index_topk=8
    )
    model = AutoModel.from_config(config, dtype=torch.float32).eval()
    try:
        Encoder(model)  # of a transformers that can
    except UserError as error:
        assert "its forward pass fails on four short texts: " in str(error)


@pytest.mark.parametrize(
    "error", [KeyError("a"), ZeroDivisionError("b"), NotImplementedError("c"), OSError("d")], ids=repr
)
def test_whatever_a_block_raises_is_one_error(llama_folder, error):
    model = load_model(resolve_model(str(llama_folder)), torch.float32, CPU)

    def fails(*_):
        raise error

    find_blocks(model)[1].register_forward_hook(fails)
    with pytest.raises(
        UserError, match=f"LlamaModel: its forward pass fails on four short texts: .*{error.args[0]}"
    ):
        Encoder(model)


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]}
LONGROPE |= {"rope_theta": 1e4, "original_max_position_embeddings": 12}


@pytest.mark.parametrize(
    "kind, own",
    [
        ("mistral", {"sliding_window": 12}),
        ("gemma3_text", {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 12}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 12}),
        ("phi3", {"sliding_window": 12}),
        ("phi3", {"rope_parameters": LONGROPE, "max_position_embeddings": 64, "original_max_position_embeddings": 12}),
    ],
)  # fmt: skip
def test_texts_within_a_models_window_share_a_row(kind, own):
    """Windows of attention, and lengths from which on rotary positions change."""
    config = AutoConfig.for_model(kind, **SHAPE | own)
    encoder = Encoder(AutoModel.from_config(config, dtype=torch.float32).eval())
    assert encoder.packs == 12
    longer = [np.arange(60, 76), np.arange(50, 64), *TEXTS]
    for ids, passes in ((TEXTS, 1), (longer, 3)):
        assert len(encoder.passes(np.array([len(text) for text in ids]))) == passes
        for text, states in zip(ids, states_of(encoder, ids), strict=True):
            assert torch.allclose(states, hidden_states(encoder.model, text), atol=1e-5)


def test_chosen_layers_are_the_same_states_and_higher_blocks_do_not_run(model):
    ids, lengths = torch.arange(3, 15), np.array([5, 7])
    every, some, ran = {}, {}, []
    Encoder(model).run(ids, lengths, lambda place, states: every.update({place: states.clone()}))
    encoder = Encoder(model, [2, 0])
    hooks = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(encoder.blocks)
    ]
    encoder.run(ids, lengths, lambda place, states: some.update({place: states.clone()}))
    for hook in hooks:
        hook.remove()
    assert encoder.packs and ran == [0, 1]
    assert torch.equal(some[0], every[0]) and torch.equal(some[1], every[2])


@pytest.mark.parametrize("packs", [math.inf, 0])
def test_the_pass_equals_one_text_at_a_time(model, packs):
    ids, labels = random_ids(), np.arange(12) % 3
    outputs = [hidden_states(model, row) for row in ids]
    states = torch.nn.utils.rnn.pad_sequence([o.transpose(0, 1) for o in outputs], batch_first=True).permute(
        2, 0, 1, 3
    )
    expected = from_arrays(states, [len(row) for row in ids], labels, 3, permutations=2)
    corpus = Corpus(ids, labels, 3, permutations=2)
    kept = np.zeros((4, 12, 32), np.float32)
    moments = Moments(range(4), 32, 3, 2)
    encoder = Encoder(model)
    encoder.packs = packs
    for rows, means in encode(encoder, corpus, plan_batches(corpus.lengths, 64), moments):
        kept[:, rows] = means
    for layer in range(4):
        for name in (*NAMES, "label_moment_permuted"):
            a, b = moments.average(name, layer), expected.average(name, layer)
            assert float((a - b).norm() / b.norm()) < 1e-6, name
        means = torch.stack([o[layer].mean(0) for o in outputs])
        assert np.allclose(kept[layer], means, atol=1e-5)
    # what is stored is what was multiplied: moments from the stored states are exact
    again = torch.as_tensor(kept[1]).double()
    assert torch.allclose(again.T @ again / 12, moments.average("mean_second_moment", 1), rtol=1e-12)


@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_batch_size_and_text_order_change_nothing_that_counts(llama, budget):
    model, _ = llama
    ids, labels = random_ids(30), np.arange(30) % 2

    def run(order, budget):
        corpus = Corpus([ids[i] for i in order], labels[order], 2)
        moments = Moments(range(4), 32, 2)
        list(encode(Encoder(model), corpus, plan_batches(corpus.lengths, budget), moments))
        return moments

    a, b = run(np.arange(30), 256), run(np.random.default_rng(1).permutation(30), budget)
    for name in NAMES:
        for layer in range(4):
            gap = (a.average(name, layer) - b.average(name, layer)).norm() / a.average(name, layer).norm()
            assert float(gap) < 1e-6


def test_texts_are_cut_and_counted_and_special_tokens_stay(llama):
    _, tokenizer = llama
    texts, _ = tiny_texts(20, 2, 0)
    whole = [tokenizer(text)["input_ids"] for text in texts]
    ids, cut = tokenize(texts, tokenizer, 10, len(tokenizer))
    assert cut == sum(len(row) > 10 for row in whole) > 0
    assert [row.tolist() for row in ids] == [row[:10] for row in whole]
    assert all(row[0] == tokenizer.bos_token_id for row in ids)


def test_special_tokens_alone_may_be_too_many(llama):
    _, tokenizer = llama
    assert len(tokenizer("")["input_ids"]) == 1
    with pytest.raises(UserError, match="special tokens"):
        tokenize(["red"], tokenizer, 0, len(tokenizer))


@pytest.mark.parametrize(
    "kind, own",
    [
        ("opt", {"word_embed_proj_dim": 16, "ffn_dim": 64}),
        ("gemma3n_text", {"head_dim": 8, "num_kv_shared_layers": 0, "laurel_rank": 4, "vocab_size_per_layer_input": 100,
                          "hidden_size_per_layer_input": 8, "activation_sparsity_pattern": [0.0] * 3}),
    ],
)  # fmt: skip
def test_a_model_whose_states_are_no_vectors_of_its_width_is_refused(kind, own):
    model = AutoModel.from_config(AutoConfig.for_model(kind, **SHAPE | own), dtype=torch.float32).eval()
    with pytest.raises(UserError, match="32 numbers a token"):
        Encoder(model)


def test_states_that_are_not_finite_name_text_and_layer(llama_folder):
    model = load_model(resolve_model(str(llama_folder)), torch.float32, CPU)
    ids = [np.array([5, 6, 7]), np.array([5, 91, 7, 8]), np.array([9])]
    corpus = Corpus(ids, np.array([0, 1, 0]), 2)
    encoder = Encoder(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[91] = torch.nan
    with pytest.raises(UserError, match="text 1, layer 0"):
        list(encode(encoder, corpus, [np.arange(3)], Moments(range(4), 32, 2)))


def test_what_rounding_may_change_is_measured_in_16_bits(llama_folder):
    """A block that subtracts a large part of its input leaves few digits, which says nothing of the text's company."""
    model = load_model(resolve_model(str(llama_folder)), torch.bfloat16, CPU)
    own = [torch.ones(2, 3, dtype=torch.bfloat16)]
    embed = model.get_input_embeddings()
    moved = rounding(
        model, lambda: [1 + 10 * (embed(torch.tensor([5])) - embed.weight[5]).abs().max() * own[0]], own
    )
    assert moved[0] >= 5e-2 and rounding(model, lambda: own, own) == [5e-2]
    assert rounding(model, lambda: own, [own[0].float()]) == [1e-4]
    assert not embed._forward_hooks

    def cancel(module, args, output):
        return output - output.float().mean(2, keepdim=True).mul(0.999).to(output) - 0.99 * output

    find_blocks(model)[-1].register_forward_hook(cancel)
    Encoder(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_looks_ahead_is_refused(llama_folder, dtype):
    model = load_model(resolve_model(str(llama_folder)), dtype, CPU)

    def peek(module, args, kwargs, output):
        return output + output.mean(1, keepdim=True) if torch.is_tensor(output) else output

    find_blocks(model)[0].register_forward_hook(peek, with_kwargs=True)
    with pytest.raises(UserError, match="once a text goes on: it looks ahead, only causal"):
        Encoder(model)


def test_layers_out_of_range_are_refused(llama):
    with pytest.raises(UserError, match="layers 0 to 3"):
        Encoder(llama[0], [4])


def test_library_use_with_a_loaded_model(llama_folder):
    texts, names = tiny_texts(40, 2, 0)
    model = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    moments = ntps.moments_of_texts(model, tokenizer, texts, names, permutations=2)
    assert moments.layers == [0, 1, 2, 3] and moments.text_count == 40
    value = ntps.ntps(moments.averages(2), kv=8)
    rows = ntps.layer_scores(moments.averages(2)).rows
    fraction = next(
        r for r in rows if r["rule"] == "task_rank" and r["order"] == "descending" and r["kv"] == 8
    )
    assert 0 < value < 1 and fraction["ntps"] == pytest.approx(float(value), abs=1e-9)
    double = ntps.moments_of_texts(model.double(), tokenizer, texts, names)
    gap = (double.average("prefix_next_moment", 2) - moments.average("prefix_next_moment", 2)).norm()
    assert 1e-10 < float(gap / double.average("prefix_next_moment", 2).norm()) < 1e-5
    model.train()
    model.base_model.layers[0].eval()
    ntps.moments_of_texts(model, tokenizer, texts, names)
    assert model.base_model.layers[1].training and not model.base_model.layers[0].mlp.training
    with pytest.raises(UserError, match="40 texts and 1 labels"):
        ntps.moments_of_texts(model, tokenizer, texts, names[:1])
    for one, said in (
        (None, "some are missing"),
        (math.nan, "some are missing"),
        (["a"], "several"),
        (1, "others numbers"),
    ):
        with pytest.raises(UserError, match=said):
            ntps.moments_of_texts(model, tokenizer, texts, [one, *names[1:]])
