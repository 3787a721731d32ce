import pytest

from app.engine.search.space import InvalidSpace
from app.tuning.space_text import read_space


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("learning_rate=0.01..0.1:log", {"low": 0.01, "high": 0.1, "log": True}),
        ("learning_rate=1e-3..1", {"low": 0.001, "high": 1}),
        ("n_epochs=10..40:step=5", {"low": 10, "high": 40, "step": 5}),
        ("n_factors=16,32,64", {"choices": [16, 32, 64]}),
        ("schedule=linear,constant", {"choices": ["linear", "constant"]}),
        ("stop_after=null,5", {"choices": [None, 5]}),
        ("loss.delta=0.3..3:log", {"low": 0.3, "high": 3, "log": True}),
        ("loss=squared, huber(r - r_hat, 2)", {"choices": ["squared", "huber(r - r_hat, 2)"]}),
        ("loss=where(r == 1, 2, 1) * (r - r_hat)**2", {"choices": ["where(r == 1, 2, 1) * (r - r_hat)**2"]}),
    ],
)
def test_a_space_reads_as_it_is_typed(text: str, dimension: dict[str, object]) -> None:
    name = text.partition("=")[0]
    assert read_space([text]) == {name: dimension}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n_factors", "write NAME=LOW..HIGH"),
        ("n_factors=", "write NAME=LOW..HIGH"),
        ("learning_rate=low..1", "'low' is not a number"),
        ("learning_rate=0.1..", "'' is not a number"),
        ("learning_rate=0.1..1:even", ":log or :step=STEP, not :even"),
        ("learning_rate=0.1..1:step=big", "'big' is not a number"),
        ("learning_rate=0.1..true", "'true' is not a number"),
    ],
)
def test_what_is_written_otherwise_is_refused_with_how_to_write_it(text: str, reason: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        read_space([text])
    assert reason in refused.value.reason
