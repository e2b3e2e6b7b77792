import pytest
import torch
from numpy.testing import assert_allclose

from polysem.kernels.gpu.logit_effects import ROWS, logit_effects
from polysem.kernels.logit_effects import logit_effects_reference

from ..test_logit_effects import TOKENS, made_up


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "V", "D"), [(0, 3, 4), (1, 2, 1), (3, 67, 48), (ROWS + 1, 40, 33)])
def test_it_matches_the_reference(device, n, V, D, dtype):
    directions, unembedding = made_up(n, V, D, dtype)
    got = logit_effects(directions.to(device), unembedding.to(device), 8)
    want = logit_effects_reference(directions, unembedding, 8)
    assert torch.equal(got.tokens.cpu(), want.tokens)
    for name in ("effects", "skewness", "kurtosis"):
        assert_allclose(getattr(got, name).cpu(), getattr(want, name), rtol=1e-5, atol=2e-5)
    assert (got.histogram.cpu().cumsum(1) - want.histogram.cumsum(1)).abs().amax().item() <= 1 if n else True


def test_equals_stand_by_token_and_zeros_have_no_sign(device):
    u = torch.tensor([[0.0], [-0.0], [1.0], [0.0], [-1.0]], device=device)
    got = logit_effects(torch.tensor([[1.0], [0.0]], device=device), u, 5)
    assert got.tokens[0].tolist() == [[2, 0, 1, 3, 4], [4, 0, 1, 3, 2]]
    assert got.effects[1].isnan().all()
    assert not got.histogram[1].any()


def test_a_direction_has_the_same_bytes_in_any_batch(device):
    """The interpreter's products are NumPy's, which round by the row: whole numbers there, which none rounds."""
    directions, unembedding = (tensor.to(device) for tensor in made_up(ROWS + 2, 70, 35))
    if device == "cpu":
        directions, unembedding = (8 * directions).round(), (8 * unembedding).round()
    whole = logit_effects(directions, unembedding, 5)
    for part in (slice(7, 8), slice(ROWS - 1, ROWS + 2)):
        for one, other in zip(logit_effects(directions[part], unembedding, 5), whole, strict=True):
            assert torch.equal(one, other[part])


def test_a_logit_that_is_not_finite_is_named(device):
    directions = torch.tensor([[1.0, 1.0]] * ROWS + [[torch.nan, 1.0]], device=device)
    with pytest.raises(ValueError, match=rf"a logit of directions\[{ROWS}\] is not finite"):
        logit_effects(directions, TOKENS.to(device), 1)
