"""What the README shows runs and prints, and what it names is there."""

import contextlib
import io
import pathlib
import re

from absl.testing import absltest
import jax
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
_NUMBER = re.compile(r'\d+(?:\.\d+)?(?:e-?\d+)?')
# What other machines and compilers change: the last digits that are shown.
_TOLERANCE = {'rtol': 0.02, 'atol': 0.01}


def assert_same_output(result, shown):
  """Words to the letter, numbers nearly."""
  lines = [x.rstrip() for x in (result.strip(), shown.strip())]
  words = [_NUMBER.sub('#', x) for x in lines]
  assert words[0] == words[1], f'\n{result}\nis not what the README shows'
  numbers = [np.array(_NUMBER.findall(x), float) for x in lines]
  np.testing.assert_allclose(*numbers, **_TOLERANCE)


class ReadmeTest(absltest.TestCase):
  def test_every_python_block_runs_in_order_and_prints_what_is_shown(self):
    """They hold assertions of their own."""
    blocks = re.findall(
      r'```python\n(.*?)```(?:\n+```text\n(.*?)```)?', README, re.DOTALL
    )
    self.assertGreater(len(blocks), 4)
    self.assertGreater(sum(bool(shown) for _, shown in blocks), 3)
    namespace = {}
    for block, shown in blocks:
      with (
        jax.numpy_rank_promotion('allow'),
        contextlib.redirect_stdout(io.StringIO()) as printed,
      ):
        exec(compile(block, 'README.md', 'exec'), namespace)
      assert_same_output(printed.getvalue(), shown)

  def test_what_it_names_exists(self):
    for path in re.findall(
      r'`((?:rllc_jax|experiments|tests)/[\w/.]+)`', README
    ):
      self.assertTrue((ROOT / path).exists(), path)
    for name in re.findall(r'\]\(([\w/.]+)\)', README):
      self.assertTrue((ROOT / name).exists(), name)


if __name__ == '__main__':
  absltest.main()
