"""Random numbers that repeat leave the user's generators alone."""

from __future__ import annotations

import warnings

import pytest
import torch

from fxprune.random_state import kept_random_state


def test_numbers_repeat_and_the_generator_is_as_before() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with kept_random_state():
        first = torch.rand(3)
    with kept_random_state():
        second = torch.rand(3)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_generator_goes_on() -> None:
    torch.manual_seed(7)
    with kept_random_state(seed=None):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3))


def test_after_an_error_the_generator_is_as_before() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), kept_random_state():
        1 / torch.randint(1, (1,)).item()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="needs a GPU")
def test_generators_of_all_gpus_are_kept_without_a_warning() -> None:
    torch.cuda.init()
    before = torch.cuda.get_rng_state_all()
    with warnings.catch_warnings(), kept_random_state():
        warnings.simplefilter("error")
        first = torch.rand(3, device="cuda")
    assert all(map(torch.equal, torch.cuda.get_rng_state_all(), before))
    with kept_random_state():
        assert torch.equal(first, torch.rand(3, device="cuda"))
