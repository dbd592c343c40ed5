"""Tiny random models by Hugging Face's transformers, with their logits.

  python -m tests.models.huggingface.make

writes them anew beside this file, where tests read them; the packages torch and
transformers are needed for that, and for tests that make others.
"""

import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
SIZES = dict(vocab_size=23, initializer_range=0.4)
LLAMA = dict(
  **SIZES,
  hidden_size=8,
  intermediate_size=10,
  num_hidden_layers=2,
  num_attention_heads=4,
  max_position_embeddings=16,
)
NEOX = dict(LLAMA, num_attention_heads=2)
GPT2 = dict(**SIZES, n_embd=8, n_layer=2, n_head=2, n_positions=16)
NEO = dict(
  **SIZES,
  hidden_size=8,
  num_layers=3,
  num_heads=2,
  max_position_embeddings=16,
  attention_types=[[['global', 'local'], 1], [['local'], 1]],
  window_size=3,
)
ROTARY = dict(rope_theta=50.0, rope_type='default')
# By name: model_type, and keys of the config with values that are no default.
MODELS = {
  'gpt2': ('gpt2', dict(GPT2, n_inner=10, activation_function='relu')),
  'gpt2_untied': ('gpt2', dict(GPT2, tie_word_embeddings=False)),
  'gpt2_by_layer': (
    'gpt2',
    dict(GPT2, scale_attn_by_inverse_layer_idx=True, layer_norm_epsilon=1e-2),
  ),
  'gpt2_unscaled': ('gpt2', dict(GPT2, scale_attn_weights=False)),
  'gpt_neox': (
    'gpt_neox',
    dict(NEOX, rope_parameters=dict(ROTARY, partial_rotary_factor=0.5)),
  ),
  'gpt_neox_sequential': (
    'gpt_neox',
    dict(
      NEOX,
      use_parallel_residual=False,
      attention_bias=False,
      tie_word_embeddings=True,
      hidden_act='gelu_new',
      layer_norm_eps=1e-2,
      rope_parameters=dict(ROTARY, partial_rotary_factor=1.0),
    ),
  ),
  'gpt_neo': ('gpt_neo', NEO),
  'llama': ('llama', dict(LLAMA, num_key_value_heads=2, head_dim=6)),
  'llama_biased': (
    'llama',
    dict(
      LLAMA,
      attention_bias=True,
      mlp_bias=True,
      tie_word_embeddings=True,
      hidden_act='gelu',
      rms_norm_eps=1e-2,
      rope_parameters=ROTARY,
    ),
  ),
  'llama_linear': (
    'llama',
    dict(LLAMA, rope_parameters=dict(ROTARY, rope_type='linear', factor=3.0)),
  ),
  'llama3': (
    'llama',
    dict(
      LLAMA,
      head_dim=8,
      rope_parameters=dict(
        rope_theta=50.0,
        rope_type='llama3',
        factor=4.0,
        low_freq_factor=0.3,
        high_freq_factor=1.0,
        original_max_position_embeddings=8,
      ),
    ),
  ),
  'qwen2': ('qwen2', dict(LLAMA, num_key_value_heads=1)),
  'qwen3': (
    'qwen3',
    dict(
      LLAMA,
      num_key_value_heads=4,
      head_dim=6,
      attention_bias=True,
      tie_word_embeddings=True,
    ),
  ),
}


def make(directory: pathlib.Path, name: str, seed: int = 0) -> None:
  """Writes a model, its tokens and its logits."""
  # pyrefly: ignore[missing-import]
  import torch

  # pyrefly: ignore[missing-import]
  import transformers

  model_type, keys = MODELS[name]
  torch.manual_seed(seed)
  config = transformers.AutoConfig.for_model(model_type, **keys)
  model = transformers.AutoModelForCausalLM.from_config(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.ndim == 1:  # Biases of 0 and gains of 1 would hide mistakes.
        parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randint(0, config.vocab_size, (3, 16))
    logits = model(tokens).logits
  model.save_pretrained(directory)
  (directory / 'generation_config.json').unlink(missing_ok=True)
  np.savez(
    directory / 'logits.npz', tokens=tokens.numpy(), logits=logits.numpy()
  )


if __name__ == '__main__':
  for name in MODELS:
    make(HERE / name, name)
