"""Contents of figures of heads, read back from their artists."""

import numpy as np
import xarray as xr

from rllc_jax.plots import readings
from rllc_jax.plots import style

STEPS = [0, 10, 100]
SCORES = ('previous_token', 'current_token', 'prefix_matching')


def dataset(num_layers=2, num_heads=3):
  rng = np.random.default_rng(0)
  names = (*SCORES, 'ablation_resample')
  shape = len(STEPS), num_layers, num_heads
  dims = 'checkpoint', 'layer', 'head'
  kinds = ['start', 'bigram', 'ngram', 'skip', 'repeat']
  return xr.Dataset(
    {name: (dims, rng.uniform(size=shape)) for name in names}
    | {
      'kind_loss': (('checkpoint', 'kind'), rng.uniform(1, 2, (3, 5))),
      'kind_floor': ('kind', np.arange(5) / 5),
    },
    {'checkpoint': STEPS, 'kind': kinds},
  )


def test_every_head_has_a_line_and_scores_show_even_attention():
  data = dataset()
  data = data.assign(even=('score', [0.03])).assign_coords(
    score=['previous_token']
  )
  drawn = readings.head_readings(data)
  assert len(drawn.axes) == 8
  for place, ax in enumerate(drawn.axes):
    layer, column = divmod(place, 4)
    name = (*SCORES, 'ablation_resample')[column]
    lines = [line for line in ax.lines if line.get_marker() == 'o']
    for head, line in enumerate(lines):
      np.testing.assert_array_equal(
        line.get_ydata(), data[name][:, layer, head]
      )
    assert len(lines) == 3
    dashed = [line for line in ax.lines if line.get_linestyle() == '--']
    assert len(dashed) == (name == 'previous_token')
    texts = [text.get_text() for text in ax.texts]
    assert [f'{layer}:{head}' for head in range(3)] == texts[-3:]


def test_losses_stand_above_their_floors():
  data = dataset()
  drawn = readings.kind_losses(data)
  assert len(drawn.axes) == 5
  for ax, kind in zip(drawn.axes, data.kind.values, strict=True):
    assert ax.get_title(loc='left') == kind
    curve, dashed = ax.lines
    np.testing.assert_array_equal(
      curve.get_ydata(), data.kind_loss.sel(kind=kind)
    )
    assert set(dashed.get_ydata()) == {float(data.kind_floor.sel(kind=kind))}
    low, high = ax.get_ylim()
    assert low == 0 and high > float(data.kind_loss.max())


def test_one_layer_and_one_kind_are_enough_and_become_files():
  data = dataset(1, 1).sel(kind=['ngram'])
  drawn = readings.head_readings(data), readings.kind_losses(data)
  assert [len(x.axes) for x in drawn] == [4, 1]
  assert style.image(drawn[0], 'png').startswith(b'\x89PNG')
  assert style.image(drawn[1], 'svg').startswith(b'<?xml')
