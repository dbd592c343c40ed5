"""The printed plan of a run on a pod."""

from absl import flags

from experiments.checks import scale


def test_the_plan_of_a_pod_holds(capsys, tmp_path):
  """10^4 checkpoints x 400 heads x 20 data sets, on four numbers of devices."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['scale'])
  files, seconds = scale.run(tmp_path)
  assert files.value < 100_000
  assert seconds.value < 1
  output = capsys.readouterr().out
  assert output.splitlines()[0].split() == ['devices', '1', '8', '256', '4,096']
  for name in ('steps', 'TB', 'files', 'memory', 'hours', 'balance'):
    assert name in output
  assert not [*tmp_path.iterdir()]
