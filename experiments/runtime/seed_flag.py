"""The flag --seed of some commands: only one module may define it."""

from absl import flags

SEED = flags.DEFINE_integer('seed', 0, 'Of all that is drawn at random.')
