"""Tokens in context that each head matters most for, with attention."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='tokens', draws='affected_tokens', made_with='')
  )
