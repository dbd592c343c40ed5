"""What the README shows runs, and what it names is there."""

import pathlib
import re

from absl.testing import absltest
import jax

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


class ReadmeTest(absltest.TestCase):
  def test_every_python_block_runs_in_order(self):
    """They hold assertions of their own."""
    blocks = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    self.assertGreater(len(blocks), 4)
    namespace = {}
    for block in blocks:
      with jax.numpy_rank_promotion('allow'):
        exec(compile(block, 'README.md', 'exec'), namespace)

  def test_what_it_names_exists(self):
    for path in re.findall(
      r'`((?:rllc_jax|experiments|tests)/[\w/.]+)`', README
    ):
      self.assertTrue((ROOT / path).exists(), path)
    for name in re.findall(r'\]\(([\w/.]+)\)', README):
      self.assertTrue((ROOT / name).exists(), name)


if __name__ == '__main__':
  absltest.main()
