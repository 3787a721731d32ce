"""Whatever the index leaves out, its answers are those of scoring everything, bit for bit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.data.row_sets import RowSet
from app.engine.factors import FactorModel, UserPrior
from app.engine.retrieval.brute_force_kernels import cosines, score_items
from app.engine.retrieval.index import TopNIndex
from app.engine.retrieval.retriever import Query
from tests.engine.worlds import model_of

MAKE_TEST, SOAK = 20, 200  # models, each of which is asked 50 times


def brute_force(model: FactorModel, query: Query, n, *, candidates=None, among=None, cosine=False):
    scores = np.empty(model.n_items, np.float32)
    if cosine:
        cosines(query.vector, model.item_factors, scores)
    else:
        score_items(query.vector, query.base, model.item_factors, model.item_bias, scores)
    is_offered = ~np.isnan(scores)
    is_offered[query.excluded[query.excluded >= 0]] = False
    if candidates is not None:
        is_offered &= np.isin(np.arange(scores.size), candidates)
    if among is not None:
        is_offered &= np.isin(np.arange(scores.size), among.rows())
    rows = np.flatnonzero(is_offered)
    chosen = rows[np.lexsort((rows, -scores[rows]))][:n]
    return chosen, scores[chosen]


def expect_equal(index: TopNIndex, queries, n, **wish):
    for (rows, values), query in zip(index.search(queries, n, **wish), queries, strict=True):
        expected, scores = brute_force(index.model, query, n, **wish)
        assert rows.tolist() == expected.tolist()
        assert np.array_equal(values, scores)


def any_model(rng: np.random.Generator, n_items: int | None = None) -> FactorModel:
    """Sizes, spectra, lengths and ties of all kinds."""
    n_items, k = n_items or int(rng.integers(512, 3000)), int(rng.integers(4, 70))
    q = rng.normal(0, 1, (n_items, k)) * rng.uniform(0.02, 1.5, k) ** rng.integers(0, 4)
    q *= rng.lognormal(0, rng.choice([0.0, 0.4, 3.0]), (n_items, 1))
    bias = rng.normal(0, rng.choice([0.0, 0.4, 10.0]), n_items)
    if rng.random() < 0.3:  # few different items: many ties
        same = rng.integers(0, 40, n_items)
        q, bias = q[same], bias[same]
    if rng.random() < 0.3:
        q[rng.random(n_items) < 0.3] = 0
    if rng.random() < 0.3:  # longer than any bound can bear, or no number
        q[rng.integers(0, n_items, 5)] *= 1e20
        bias[rng.integers(0, n_items, 3)] = np.nan
    root = rng.normal(0, 0.3, (k + 1, k + 1))
    return model_of(q, item_bias=bias, prior=UserPrior(np.zeros(k + 1), root @ root.T))


def any_query(rng: np.random.Generator, model: FactorModel) -> Query:
    vector = rng.normal(0, rng.choice([0.0, 1e-3, 1.0, 1e6], p=[0.05, 0.1, 0.8, 0.05]), model.n_factors)
    if rng.random() < 0.3:
        vector = model.item_factors[rng.integers(model.n_items)].astype(np.float64)
    excluded = rng.integers(-1, model.n_items, int(rng.integers(0, 300))).astype(np.int32)
    return Query(vector.astype(np.float32), float(rng.normal(3, 2)), excluded)


def ask_anything(rng: np.random.Generator, index: TopNIndex, n_times: int) -> None:
    n_items = index.model.n_items
    for _ in range(n_times):
        queries = [any_query(rng, index.model) for _ in range(int(rng.choice([1, 1, 1, 5])))]
        n = int(rng.choice([1, 10, 10, 100, n_items, n_items + 5]))
        among = RowSet.where(rng.random(n_items) < rng.choice([0.0, 0.01, 0.2, 0.9])) if rng.random() < 0.4 else None
        some = rng.integers(-1, n_items, int(rng.choice([0, 5, n_items]))).astype(np.int32)
        with np.errstate(all="ignore"):
            expect_equal(
                index,
                queries,
                n,
                among=among,
                candidates=some if rng.random() < 0.2 else None,
                cosine=bool(rng.random() < 0.3),
            )


@pytest.mark.parametrize("seed", range(MAKE_TEST))
def test_a_thousand_searches_equal_scoring_everything(seed):
    rng = np.random.default_rng(seed)
    model = any_model(rng)
    index = TopNIndex.build(model, n_lead=int(rng.choice([0, 4, 8, 1000])) or None)
    assert index
    ask_anything(rng, index, 50)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1000 + SOAK))
def test_ten_thousand_searches_equal_scoring_everything(seed):
    test_a_thousand_searches_equal_scoring_everything(seed)


def indexed(model: FactorModel) -> TopNIndex:
    index = TopNIndex.build(model)
    assert index
    return index


def test_equal_scores_come_in_the_order_of_their_rows():
    index = indexed(model_of(np.tile([[0.5, -0.25, 0.125, 0.0]], (2000, 1))))
    ((rows, _),) = index.search([Query(np.ones(4, np.float32), 3.0, np.array([0, 2], np.int32))], 5)
    assert rows.tolist() == [1, 3, 4, 5, 6]


def test_scores_a_rounding_apart_keep_their_order():
    rng = np.random.default_rng(3)
    q = np.tile(rng.normal(0, 1, (1, 64)), (3000, 1)) * (1 + rng.integers(-4, 5, (3000, 64)) * 2.0**-23)
    expect_equal(indexed(model_of(q)), [Query(rng.normal(0, 1, 64).astype(np.float32), 3.0)], 50)


def every_sign(n_axes: int) -> np.ndarray:
    """Every combination of signs once, shuffled, by uneven sizes: the principal axes are those it is written in."""
    bits = np.random.default_rng(0).permutation(2**n_axes)[:, None] >> np.arange(n_axes) & 1
    return (2.0 * bits - 1.0) * (1 - 0.03 * np.arange(n_axes))


LOST = 2.0**-8
"""Beside 1.25 it is less than half a step of a byte."""


@pytest.mark.parametrize("n_lead", [4, 13])
def test_items_that_differ_by_less_than_bytes_can_say_are_told_apart(n_lead):
    signs = every_sign(12)
    index = TopNIndex.build(model_of(np.hstack([np.full((4096, 1), 1.25), LOST * signs])), n_lead)
    assert index
    wanted = Query(np.array([0.0] + [1.0] * 12, np.float32))
    expect_equal(index, [wanted], 10)
    expect_equal(index, [wanted], 10, cosine=True)


@pytest.mark.parametrize("n_lead", [4, 13])
def test_a_user_whose_wishes_are_lost_in_bytes_gets_what_it_wishes(n_lead):
    q = np.vstack([np.hstack([np.zeros((4096, 1)), every_sign(12)]), [100.0] + [0.0] * 12])
    index = TopNIndex.build(model_of(q, item_bias=np.append(np.zeros(4096), -200.0)), n_lead)
    assert index
    expect_equal(index, [Query(np.array([1.25] + [LOST] * 12, np.float32))], 10)


@pytest.mark.parametrize(("size", "wish"), [(0.2, 2.0), (3.0, 0.005)], ids=["small in items", "small in users"])
def test_what_the_later_axes_make_together_is_never_rounded_down(size, wish):
    """The first seven axes are exact in bytes, and the user wants just what the others point to."""
    signs = every_sign(12)
    q = np.hstack([np.full((4096, 1), 127.0), np.sign(signs[:, :6]) * [9, 8, 7, 6, 5, 4], size * signs[:, 6:]])
    index = TopNIndex.build(model_of(q), n_lead=7)
    assert index
    vector = np.concatenate([[1.0], np.zeros(6), np.full(6, wish / 6**0.5)])
    expect_equal(index, [Query(vector.astype(np.float32))], 10)


def test_zero_vectors_leave_the_order_to_the_biases():
    bias = np.random.default_rng(0).normal(0, 1, 1000)
    index = indexed(model_of(np.zeros((1000, 8)), item_bias=bias))
    expect_equal(index, [Query(np.ones(8, np.float32), 3.0), Query(np.zeros(8, np.float32))], 10)
    assert index.search([Query(np.ones(8, np.float32))], 10, cosine=True)[0][0].size == 0


@pytest.mark.parametrize("size", [1e8, 1e18, 1e30, 3e38])
def test_one_vector_of_huge_length_is_found_and_hides_no_other(size):
    rng = np.random.default_rng(0)
    q = rng.normal(0, 0.5, (2000, 16))
    q[1234, 3] = size
    with np.errstate(all="ignore"):
        queries = [Query(rng.normal(0, 1, 16).astype(np.float32), 3.0) for _ in range(20)]
        expect_equal(indexed(model_of(q)), queries, 10)
        expect_equal(indexed(model_of(q)), queries, 10, cosine=True)


@pytest.mark.parametrize("size", [1e-30, 1e-19, 1e-12, 1e14, 1e25])
def test_users_of_any_length_get_their_list(size):
    rng = np.random.default_rng(0)
    model = model_of(rng.normal(0, 0.5, (2000, 16)))
    with np.errstate(all="ignore"):
        query = Query((size * rng.normal(0, 1, 16)).astype(np.float32), 3.0)
        expect_equal(indexed(model), [query], 10)
        expect_equal(indexed(model), [query], 10, cosine=True)


def test_a_part_of_a_batch_is_what_each_gets_alone():
    rng = np.random.default_rng(1)
    index = indexed(any_model(rng, 2000))
    queries = [any_query(rng, index.model) for _ in range(64)]
    together = index.search(queries, 10)
    for query, (rows, values) in zip(queries, together, strict=True):
        ((alone, scores),) = index.search([query], 10)
        assert rows.tolist() == alone.tolist()
        assert np.array_equal(values, scores)


def test_all_items_come_when_all_are_wanted_and_none_when_none_are():
    index = indexed(model_of(np.random.default_rng(0).normal(0, 1, (700, 8))))
    query = Query(np.ones(8, np.float32))
    assert index.search([query], 10_000)[0][0].size == 700
    assert index.search([query], 0)[0][0].size == 0
    assert index.search([query], 5, among=RowSet.of(np.zeros(0, np.int32), 700))[0][0].size == 0
    assert index.search([], 5) == []


def test_what_is_excluded_may_come_in_any_order_twice_and_be_everything():
    rng = np.random.default_rng(4)
    index = indexed(model_of(rng.normal(0, 1, (900, 8))))
    vector = rng.normal(0, 1, 8).astype(np.float32)
    best = index.search([Query(vector)], 900)[0][0]
    for n_excluded in (1, 100, 890, 900):
        excluded = rng.permutation(np.concatenate([best[:n_excluded], best[:n_excluded], [-1]])).astype(np.int32)
        assert index.search([Query(vector, 0.0, excluded)], 10)[0][0].tolist() == best[n_excluded:][:10].tolist()
        others = [Query(vector), Query(vector, 0.0, excluded), Query(vector)]
        lists = [rows.tolist() for rows, _ in index.search(others, 10)]
        assert lists == [best[:10].tolist(), best[n_excluded:][:10].tolist(), best[:10].tolist()]


def test_vectors_of_other_types_and_layouts_are_looked_with_too_and_of_other_sizes_refused():
    rng = np.random.default_rng(4)
    index = indexed(model_of(rng.normal(0, 1, (900, 8))))
    vector = rng.normal(0, 1, 8).astype(np.float32)
    expected = index.search([Query(vector)], 5)[0][0].tolist()
    read_only = vector.copy()
    read_only.flags.writeable = False
    for same in (read_only, vector.astype(np.float64), np.repeat(vector, 2)[::2]):
        strided = np.full((3, 2), -1, np.int32)[:, 0]
        for queries in ([Query(same, 0.0, strided)], [Query(same, 0.0, strided), Query(same)]):
            assert index.search(queries, 5)[0][0].tolist() == expected
    for queries in ([Query(vector[:7])], [Query(vector), Query(vector[:7])]):
        with pytest.raises(InvalidArray, match="vector must have shape"):
            index.search(queries, 5)


def test_threads_get_what_each_gets_alone():
    rng = np.random.default_rng(6)
    index = indexed(any_model(rng, 2000))
    queries = [any_query(rng, index.model) for _ in range(200)]
    with np.errstate(all="ignore"), ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda query: index.search([query], 10)[0], queries))
    for query, (rows, values) in zip(queries, together, strict=True):
        ((alone, scores),) = index.search([query], 10)
        assert rows.tolist() == alone.tolist()
        assert np.array_equal(values, scores)


def test_few_items_need_no_index():
    assert TopNIndex.build(model_of(np.ones((1, 8)))) is None
    assert TopNIndex.build(model_of(np.ones((1000, 1)))) is None


def test_what_is_stored_answers_as_what_was_built():
    rng = np.random.default_rng(2)
    built = indexed(any_model(rng))
    arrays = built.arrays()
    for array in arrays.values():
        array.flags.writeable = False
    ask_anything(rng, TopNIndex.from_arrays(built.model, arrays), 20)


@pytest.mark.parametrize(
    "name", ["rotation", "order", "lead", "whole", "bias", "length", "of_block", "of_group", "outliers"]
)
def test_arrays_that_do_not_fit_are_refused(name):
    index = indexed(model_of(np.random.default_rng(0).normal(0, 1, (700, 8))))
    arrays = index.arrays()
    with pytest.raises(InvalidArray, match=name):
        TopNIndex.from_arrays(index.model, {key: value for key, value in arrays.items() if key != name})
    broken = (
        np.full_like(arrays[name], 700)
        if name == "order"
        else np.zeros((1,) * (arrays[name].ndim + 1), arrays[name].dtype)
    )
    with pytest.raises(InvalidArray, match=name):
        TopNIndex.from_arrays(index.model, arrays | {name: broken})


def test_rows_outside_the_model_are_refused():
    index = indexed(model_of(np.random.default_rng(0).normal(0, 1, (700, 8))))
    outside = np.array([700], np.int32)
    with pytest.raises(InvalidArray, match="excluded holds row 700"):
        index.search([Query(np.ones(8, np.float32), 0.0, outside)], 1)
    with pytest.raises(InvalidArray, match="candidates holds row 700"):
        index.search([Query(np.ones(8, np.float32))], 1, candidates=outside)
    with pytest.raises(InvalidArray, match="among is of 5 rows"):
        index.search([Query(np.ones(8, np.float32))], 1, among=RowSet.full(5))
