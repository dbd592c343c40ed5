"""Tiny random models by TransformerLens 2, with their logits.

  python -m tests.models.transformer_lens.make

writes them anew beside this file; the package transformer_lens is needed, which
tests do not need.
"""

import dataclasses
import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
SIZES = dict(
  n_layers=2,
  d_model=8,
  n_ctx=16,
  d_head=4,
  n_heads=2,
  d_vocab=23,
  act_fn='gelu_new',
  seed=0,
)
MODELS = {
  'standard': SIZES,
  'shortformer': dict(
    SIZES, attn_only=True, positional_embedding_type='shortformer'
  ),
  'grouped': dict(
    SIZES,
    n_heads=4,
    n_key_value_heads=2,
    gated_mlp=True,
    act_fn='silu',
    normalization_type='RMS',
    final_rms=True,
    positional_embedding_type='rotary',
    rotary_dim=4,
  ),
  'local': dict(
    SIZES,
    use_attn_scale=False,
    use_local_attn=True,
    attn_types=['global', 'local'],
    window_size=3,
    act_fn='relu',
    scale_attn_by_inverse_layer_idx=True,
  ),
  'parallel': dict(
    SIZES,
    parallel_attn_mlp=True,
    positional_embedding_type='rotary',
    rotary_dim=2,
    act_fn='gelu',
    eps=1e-2,
  ),
}


def make(directory: pathlib.Path, name: str) -> None:
  """Writes a configuration, a state dict, tokens and logits."""
  # pyrefly: ignore[missing-import]
  import torch

  # pyrefly: ignore[missing-import]
  import transformer_lens

  config = transformer_lens.HookedTransformerConfig(**MODELS[name])
  model = transformer_lens.HookedTransformer(config)
  torch.manual_seed(1)
  with torch.no_grad():
    for key, parameter in model.named_parameters():
      # Added to a product there, which no model does.
      if not (config.gated_mlp and key.endswith('mlp.b_in')):
        parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randint(0, config.d_vocab, (3, 16))
    logits = model(tokens)
  values = {x.name: getattr(config, x.name) for x in dataclasses.fields(config)}
  plain = (int, float, str, bool, list, type(None))
  values = {
    key: x if isinstance(x, plain) else str(x) for key, x in values.items()
  }
  directory.mkdir(exist_ok=True)
  (directory / 'cfg.json').write_text(json.dumps(values))
  state_dict = {key: x.numpy() for key, x in model.state_dict().items()}
  np.savez_compressed(directory / 'state_dict.npz', **state_dict)
  np.savez_compressed(
    directory / 'logits.npz', tokens=tokens.numpy(), logits=logits.numpy()
  )


if __name__ == '__main__':
  for name in MODELS:
    make(HERE / name, name)
