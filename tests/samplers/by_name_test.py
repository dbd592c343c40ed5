"""Samplers by name, as configs and command lines write them."""

import pytest

from rllc_jax import types
from rllc_jax.samplers import by_name


@pytest.mark.parametrize('name', by_name.names())
def test_every_public_sampler_is_found_by_name_and_made_once(name):
  kernel = by_name.sampler(name)
  assert isinstance(kernel, types.Sampler)
  assert by_name.sampler(name) is kernel, 'a second one would compile again'


def test_every_sampler_has_a_name_of_its_own():
  """A store takes runs of one name for runs of one kernel."""
  kernels = [by_name.sampler(name) for name in by_name.names()]
  assert len({kernel.name for kernel in kernels}) == len(kernels)


@pytest.mark.parametrize(
  ('text', 'name'),
  [
    ('sgld', 'sgld'),
    ('sgld()', 'sgld'),
    ('sgld(preconditioner=None)', 'sgld'),
    ('sghmc', 'sghmc(friction=0.1)'),
    ('sghmc(friction=0.5)', 'sghmc(friction=0.5)'),
    (
      'rmsprop_sgld(eps=1e-8, decay=0.9)',
      'sgld(rmsprop(decay=0.9, eps=1e-08))',
    ),
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
