"""All settings of a config by section, with their defaults.

A config is made of these by `make_config`, so any of them can be changed on the
command line: --config.SECTION.NAME=VALUE, such as

  --config.sampling.num_chains=8
  --config.corpus.files="('my.jsonl','novels=my.parquet')"
"""

from collections.abc import Mapping
import dataclasses
import inspect
from typing import Any, get_type_hints

import ml_collections

from rllc_jax.data import documents
from rllc_jax.estimators import settings
from rllc_jax.models import architecture


@dataclasses.dataclass(frozen=True)
class Corpus:
  """The section `corpus` of a config.

  Attributes:
    sources: names of `mini_pile.SOURCES`, or of `synthetic.LANGUAGES`, that
      make the training mix.
    further: names of those that are held out whole.
    files: more of the mix, each 'FILE' or 'NAME=FILE', where a folder or a glob
      may stand for FILE and '#FIELD' may follow it (see `files.source`). Files
      with one NAME are one domain.
    text_field: the field or column of `files` that holds the text, where no
      FIELD is given: 'text', or 'article.text' for one inside another.
    nulls: what becomes of rows of `files` without text: 'refuse', or 'skip',
      which counts them.
    min_characters: of a document; shorter ones are dropped and counted.
    max_characters: of a document; longer ones are cut at line ends or spaces.
    tfds_directory: more of the mix, a prepared TFDS data set; '' for none.
    tfds_text_feature: its feature that holds the text.
    tfds_split: its split, in the notation of TFDS.
    cap_mb: most text taken from a source, in 10^6 bytes.
    held_out_fraction: share of the mix's documents that is held out.
    tokenizer: byte pairs, 'bpe', or what white space parts, 'words', learned
      from the text; or the path of a model's `tokenizer.json`.
    special_token: of that tokenizer, which parts documents and begins a row; by
      default the usual one that it has.
    tokens: the path of an array of token ids, .npy, [N, T] documents or [N] of
      one, in place of text; `special_token` is then an id.
    vocab_size: ids, the special token included.
    context_length: tokens a row, the special token at its start included.
    said_twice: windows NAME of which there shall be a NAME_twice, whose rows
      say their first half twice.
  """

  sources: tuple[str, ...] = (
    'wiki_en',
    'gcide',
    'kjv',
    'legal',
    'botocore_docs',
    'stdlib_code',
  )
  further: tuple[str, ...] = ('wiki_fr', 'wiki_es')
  files: tuple[str, ...] = ()
  text_field: str = 'text'
  nulls: str = 'refuse'
  min_characters: int = documents.MIN_CHARACTERS
  max_characters: int = documents.MAX_CHARACTERS
  tfds_directory: str = ''
  tfds_text_feature: str = 'text'
  tfds_split: str = 'train'
  cap_mb: float = 5.0
  held_out_fraction: float = 0.05
  tokenizer: str = 'bpe'
  special_token: str = ''
  tokens: str = ''
  vocab_size: int = 2_000
  context_length: int = 64
  said_twice: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Model:
  """The section `model` of a config: what is trained, or measured.

  Attributes:
    source: where the measured model is from: '' for the one that is trained
      here; 'huggingface:DIR' for a directory of a model of Hugging Face, or of
      its checkpoints, below the workdir if it is relative;
      'factory:MODULE:FUNCTION' for what a function of yours returns, see
      `experiments.runtime.factories`.
    checkpoints: a glob below that directory, of one directory a training step
      whose names end in it; '' for a single model.
    dtype: of weights that are stored in half precision and shall be widened,
      'float32'.
    num_layers: blocks, at least 1. This and what follows is of a model that is
      trained here; see `models.architecture.Architecture`.
    num_heads: query heads a block.
    d_model: width of the residual stream.
    d_head: width of a head.
    num_kv_heads: key and value heads a block; 0 for one a query head.
    d_mlp: width of the MLP; 0 for attention alone.
    gated: whether the MLP has a gate.
    activation: of the MLP.
    parallel: whether the MLP reads what attention reads.
    positions: one of 'shortformer', 'learned', 'rotary' and 'none'.
    rotary_dims: dimensions of a head that turn, if positions are rotary.
    norm: before attention and MLP, 'layer' or 'rms'.
    tied: whether the unembedding is the embedding.
    biases: names of those that the model has.
  """

  source: str = ''
  checkpoints: str = ''
  dtype: str = ''
  num_layers: int = 2
  num_heads: int = 4
  d_model: int = 128
  d_head: int = 32
  num_kv_heads: int = 0
  d_mlp: int = 0
  gated: bool = False
  activation: str = 'gelu'
  parallel: bool = False
  positions: str = 'shortformer'
  rotary_dims: int = 0
  norm: str = 'layer'
  tied: bool = False
  biases: tuple[str, ...] = architecture.BIASES

  def architecture(
    self, context_length: int, vocab_size: int
  ) -> architecture.Architecture:
    """The architecture of a model that is trained here.

    Raises:
      ValueError: if a setting makes no sense.
    """
    values = dataclasses.asdict(self)
    for name in ('source', 'checkpoints', 'dtype'):
      del values[name]
    dims = values.pop('rotary_dims')
    return architecture.Architecture(
      **values,
      context_length=context_length,
      vocab_size=vocab_size,
      rotary=architecture.Rotary(dims) if dims else None,
    )


@dataclasses.dataclass(frozen=True)
class Training:
  """The section `training` of a config.

  Attributes:
    name: of the run, below the workdir; 'train' is the one that is measured.
    learning_rate: constant from the first step to the last.
    weight_decay: of AdamW, on every weight.
    beta2: decay of its average of squares.
    batch_size: sequences a step; as many devices as divide it evenly take part.
    num_steps: updates in all.
    num_checkpoints: log-spaced in the step, the first and the last included.
    checkpoints: their steps, in place of log-spaced ones.
    resume_every: steps between two states that a killed run goes on from; if
      they take long, there is one about every ten seconds.
  """

  name: str = 'train'
  learning_rate: float = 1e-3
  weight_decay: float = 0.05
  beta2: float = 0.999
  batch_size: int = 32
  num_steps: int = 10_000
  num_checkpoints: int = 12
  checkpoints: tuple[int, ...] = ()
  resume_every: int = 500


@dataclasses.dataclass(frozen=True)
class Estimation:
  """The section `estimation` of a config.

  Attributes:
    refinements: names, see `refinement.names`; 'heads' stands for all heads,
      'mlps' for all MLPs.
    datasets: names of windows of the corpus, such as 'train', 'held_out' or
      'held_out/wiki_fr', each for all of its tokens or, as in 'train@repeated'
      or 'train@bracket+code', for those of certain properties alone: code,
      bracket, repeated, inside_word, number, space, late (see
      `rllc_jax.data.token_classes`).
    code: domains that are code, for that property.
    checkpoints: training steps; all that were kept by default.
    late_datasets: names of windows that are measured at the last checkpoints
      alone, when all others are done.
    num_late_checkpoints: how many these are.
    last_target_error: a target error of the last checkpoint, as of
      `sampling.target_error`; '' for the same as for the others.
    reference: the training run below the workdir whose last checkpoint the
      model is compared with (`training.name` of that run): the loss is then
      KL(reference || model). '' for the loss of the next token.
    name: of the store, below the workdir: one a loss and choice of settings.
    batch_size: sequences a minibatch.
    share_logits: whether the last layer keeps the logits at the checkpoint.
    keep_chains: whether chains stay on disk when their draws are done, so that
      more draws can be asked for without doing these again.
  """

  refinements: tuple[str, ...] = ('heads',)
  datasets: tuple[str, ...] = ('train',)
  code: tuple[str, ...] = ('stdlib_code',)
  checkpoints: tuple[int, ...] = ()
  late_datasets: tuple[str, ...] = ()
  num_late_checkpoints: int = 6
  last_target_error: str = ''
  reference: str = ''
  name: str = 'rllc'
  batch_size: int = 32
  share_logits: bool = True
  keep_chains: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(settings.Sampling):
  """The section `sampling` of a config: the paper's posterior.

  At four times its step size, which has no bias here; see
  `experiments.configs.paper` for its sampler and step size.
  """

  nbeta: float = 30.0
  localization: float = 200.0
  step_size: float = 4e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout(settings.Layout):
  """The section `layout` of a config."""


@dataclasses.dataclass(frozen=True)
class Calibration:
  """The section `calibration` of a config.

  What it lacks is as in `sampling` and `estimation`.

  Attributes:
    refinements: names; 'heads' stands for all heads.
    datasets: names of windows of the corpus.
    checkpoints: training steps; the last by default.
    step_sizes: epsilon, each twice another.
    nbetas: n beta.
    localizations: gamma.
    num_chains: chains a refinement.
    num_draws: draws after the burn-in, at every setting.
    num_curvature_batches: minibatches that curvature is measured on.
  """

  refinements: tuple[str, ...] = ('0:0', '1:0')
  datasets: tuple[str, ...] = ('train',)
  checkpoints: tuple[int, ...] = ()
  step_sizes: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3)
  nbetas: tuple[float, ...] = (10.0, 30.0, 100.0)
  localizations: tuple[float, ...] = (200.0,)
  num_chains: int = 4
  num_draws: int = 400
  num_curvature_batches: int = 8


@dataclasses.dataclass(frozen=True)
class Analysis:
  """The section `analysis` of a config.

  Attributes:
    dataset: the window of the corpus that losses are measured on.
    num_tokens: of its sequences that are taken, evenly spaced; 8 sequences at
      least.
    num_sequences: random ones a score of attention is the mean over.
    num_curvature_batches: minibatches of 1,024 tokens or one sequence for the
      traces of Hessian and Fisher matrix, 2 at least; up to 16 times as many
      are taken until errors are 5 %.
  """

  dataset: str = 'held_out'
  num_tokens: int = 16_384
  num_sequences: int = 2_048
  num_curvature_batches: int = 4


@dataclasses.dataclass(frozen=True)
class Study:
  """The section `study` of a config; see experiments.study.

  Attributes:
    against_one_layer: whether heads are measured against the predictions of a
      one-layer model, too.
  """

  against_one_layer: bool = True


@dataclasses.dataclass(frozen=True)
class Figure:
  """The section `figure` of a config; see experiments.figures.

  Attributes:
    name: of the file, below DIR/figures.
    draws: a figure of the paper, a key of `experiments.paper.drawing.DRAWN`.
    text: the data set that the model was trained on.
    datasets: those that are drawn beside it, such as code.
    method: of clustering: 'euclidean', 'dtw' or 'hierarchical'.
    normalisation: of curves before: 'none', 'minmax' or 'standard'.
  """

  name: str = 'figure'
  draws: str = 'heads'
  text: str = 'train'
  datasets: tuple[str, ...] = ()
  method: str = 'euclidean'
  normalisation: str = 'none'


SECTIONS: Mapping[str, Any] = {
  'corpus': Corpus,
  'model': Model,
  'training': Training,
  'estimation': Estimation,
  'sampling': Sampling,
  'layout': Layout,
  'calibration': Calibration,
  'analysis': Analysis,
  'study': Study,
  'figure': Figure,
}
_NOT_OF_CONFIGS = ('mesh',)  # Devices cannot be written as text.


def make_config(
  seed: int = 0, **changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Makes a config with all settings: the defaults, updated by `changes`.

  Args:
    seed: of the weights, the order of the data, minibatches and noise.
    **changes: {setting: value} by section.
  """
  config = ml_collections.ConfigDict({'seed': seed})
  for section, kind in SECTIONS.items():
    overrides = changes.get(section, {})
    kind(**overrides)  # Raises at once if a value is invalid.
    config[section] = {
      name: _typed_none(section, name) if value is None else value
      for name, value in {**defaults(section), **overrides}.items()
    }
  return config


def defaults(section: str) -> dict[str, Any]:
  """The settings of a section, with their defaults."""
  return {
    field.name: field.default
    for field in dataclasses.fields(SECTIONS[section])
    if field.name not in _NOT_OF_CONFIGS
  }


def hints(section: str) -> dict[str, Any]:
  """The types of the settings of a section."""
  # A sampler is given by its name, and a target by its text.
  texts = {'sampler': str, 'target_error': str | None}
  return get_type_hints(SECTIONS[section]) | texts


@dataclasses.dataclass(frozen=True)
class Settings:
  """A whole config, read and checked once.

  Attributes:
    seed: of the weights, the order of the data, minibatches and noise.
    corpus: the other attributes are sections.
  """

  seed: int
  corpus: Corpus
  model: Model
  training: Training
  estimation: Estimation
  sampling: Sampling
  layout: Layout
  calibration: Calibration
  analysis: Analysis
  study: Study
  figure: Figure


def read(config: ml_collections.ConfigDict) -> Settings:
  """Reads a config; missing settings have their defaults.

  Raises:
    ValueError: if it has an unknown section or setting, or an invalid value.
  """
  unknown = sorted(set(config).difference(SECTIONS, ['seed']))
  if unknown:
    raise ValueError(
      f'A config must have sections among {", ".join(SECTIONS)}, and seed, '
      f'because no other is read; got {", ".join(unknown)}.'
    )
  sections = {name: _read_section(config, name) for name in SECTIONS}
  return Settings(seed=int(config.get('seed') or 0), **sections)


def _read_section(config: ml_collections.ConfigDict, section: str) -> Any:
  values = dict(config.get(section) or {})
  fields = defaults(section)
  unknown = sorted(set(values).difference(fields))
  if unknown:
    # A name in the wrong section is the likely mistake.
    elsewhere = [x for x in SECTIONS if unknown[0] in defaults(x)]
    hint = f' {unknown[0]} is in {elsewhere[0]}.' if elsewhere else ''
    raise ValueError(
      f'config.{section} must have fields among {", ".join(fields)}, because '
      f'no other is read; got {", ".join(unknown)}.{hint}'
    )
  return SECTIONS[section](**values)


def description() -> str:
  """Description of every section and setting, for --help."""
  parts = ['settings, as --config.SECTION.NAME=VALUE:']
  for section, kind in SECTIONS.items():
    # A section that only changes defaults inherits its attributes' text.
    documented = kind if 'Attributes:' in str(kind.__doc__) else kind.__base__
    fields = inspect.cleandoc(documented.__doc__).split('Attributes:\n')[-1]
    fields = fields.split('\n\nRaises:')[0]
    for name, default in defaults(section).items():
      fields = fields.replace(f'  {name}: ', f'  {name} = {default!r}: ', 1)
    parts.append(f'{section}\n{fields}')
  return '\n\n'.join([*parts, ''])


def _typed_none(section: str, name: str) -> Any:
  """A None that accepts values of the right type from the command line."""
  # ml_collections derives the type of a flag from the value, which is None.
  kinds = hints(section)[name].__args__  # Of X | None.
  return ml_collections.config_dict.placeholder(kinds[0])
