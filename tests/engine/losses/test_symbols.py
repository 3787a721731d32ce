from app.engine.losses import symbols
from app.engine.losses.declare import declare


def slope_of(text: str) -> str:
    error, _ = symbols.error_of(declare(text))
    return str(symbols.derivative(error, symbols.SCORE, text))


def test_the_slope_of_a_hyperbolic_cosine_behind_a_logarithm_cannot_overflow():
    assert slope_of("log(cosh(r_hat))") == "tanh(r_hat_raw)"


def test_the_slope_of_a_softplus_is_a_sigmoid_however_it_is_written():
    for text in ("log(1 + exp(r_hat))", "log1p(exp(r_hat))", "softplus(r_hat)"):
        assert slope_of(text) == "sigmoid(r_hat_raw)"


def test_the_slope_of_a_choice_is_the_choice_of_slopes_and_conditions_have_none():
    assert slope_of("where(r_hat > 2 and r > 1, r_hat**2, 3 * r_hat)") == (
        "choose(both(less(2, r_hat_raw), less(1, r)), 2*r_hat_raw, 3)"
    )


def test_functions_with_a_kink_are_differentiated_by_rule():
    assert slope_of("abs(r_hat)") == "sign(r_hat_raw)"
    assert slope_of("huber(r_hat, 2)") == "clamp(r_hat_raw, 2)"
