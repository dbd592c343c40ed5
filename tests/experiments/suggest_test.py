"""The command on checkpoints that were trained here."""

from absl import flags

from experiments import suggest
from experiments import train
from experiments.runtime import sections
from tests.experiments import train_test


def test_a_setting_is_suggested_and_planned(tmp_path, capsys):
  train_test.write_corpus(tmp_path)
  train.run(train_test.read_config(), tmp_path)
  config = sections.make_config(
    seed=3,
    estimation={'refinements': ('0:0', 'unembed'), 'batch_size': 4},
    sampling={'num_chains': 2},
  )
  flags.FLAGS.mark_as_parsed()  # A test has no command line.
  result = suggest.run(config, tmp_path)
  printed = capsys.readouterr().out
  assert result.sampling.num_chains == 2
  assert result.sampling.nbeta == 30 and result.sampling.localization == 200
  assert list(result.each.refinement.values) == ['0:0', 'unembed']
  assert (
    f'--config.sampling.step_size={result.sampling.step_size:.4g}' in printed
  )
  assert 'cells that lack draws' in printed
  assert not (tmp_path / 'rllc').exists()
