"""Samplers by name, as configs and command lines write them."""

import pytest

from rllc_jax.samplers import by_name


@pytest.mark.parametrize(
  ('text', 'name'),
  [
    ('sgld', 'sgld'),
    ('sghmc', 'sghmc(friction=0.1)'),
    ('sghmc(friction=0.5)', 'sghmc(friction=0.5)'),
    ('sgnht', 'sgnht(diffusion=1.0)'),
    ('rmsprop_sgld', 'sgld(rmsprop(decay=0.99, eps=0.1))'),
    (
      'rmsprop_sgld_corrected',
      'sgld(rmsprop_corrected(decay=0.999, eps=1e-08))',
    ),
    ('mala', 'mala'),
    ('sgld_with_mala_acceptance()', 'sgld+mala_acceptance'),
  ],
)
def test_a_text_names_a_sampler_and_its_arguments(text, name):
  assert by_name.sampler(text).name == name
  assert by_name.sampler(text) is by_name.sampler(text), 'compiled once'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('hmc', "one of .*sgld.*got 'hmc'"),
    ('', 'one of .*sgld'),
    ('sgld(', 'one of .*sgld'),
    ('sghmc(0.5)', 'arguments by name'),
    ('sghmc(friction=open("x"))', 'arguments by name'),
    ('sghmc(steps=3)', r'a call that fits sghmc\(friction'),
    ('__import__("os")', 'one of .*sgld'),
    ('full', 'one of .*sgld'),
  ],
)
def test_a_text_that_names_no_sampler_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    by_name.sampler(text)
