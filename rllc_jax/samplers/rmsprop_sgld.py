r"""SGLD preconditioned by RMSprop, in its two published forms.

Li, Chen, Carlson and Carin, "Preconditioned Stochastic Gradient Langevin
Dynamics for Deep Neural Networks", AAAI 2016 (https://arxiv.org/abs/1512.07666).
Both forms leave out the term of that paper which makes the law exact,

.. math:: \tfrac{\epsilon}{2}\,\Gamma_i,
  \qquad \Gamma_i = \sum_j \partial G_{ij} / \partial u_j

and so does everything that learning coefficients are estimated with. Once steps
are so small that V is the squared gradient of the place, what is sampled is
:math:`e^{-U} / \prod_i G_i(u)`, which weighs large gradients too much:
estimates are *too high*, and from some step size on a smaller one makes it
worse. In a bowl of 10 weights with h = 1, n beta = 100, gamma = 0 and no
minibatch noise, where the truth is 5 and SGLD's step-size bias 2.6 % at 1e-3,
the estimates at the default settings are

==========================  ======  ======  ======  ======  ======
step size                   1e-3    1e-4    1e-5    1e-6    limit
==========================  ======  ======  ======  ======  ======
`rmsprop_sgld`              5.75    5.46    6.44    7.06    7.22
`rmsprop_sgld_corrected`    6.42    5.17    5.46    7.34    10
==========================  ======  ======  ======  ======  ======

of which the excess at 1e-3 is mostly step-size bias, of an effective step of
some :math:`\epsilon / \sqrt V`. Minibatch noise, which is in V too, makes G
more even and the bias smaller. The equilibrium ratio shows this bias and not
that of the steps: 1.01, 1.08, 1.29 and 1.41 in the first row.
"""

import functools

from rllc_jax import types
from rllc_jax.samplers import preconditioners
from rllc_jax.samplers import sgld


@functools.cache
def rmsprop_sgld(decay: float = 0.99, eps: float = 0.1) -> types.Sampler:
  """RMSprop-SGLD of devinterp, see :func:`preconditioners.rmsprop`.

  The effective step size is up to 1 / eps times the given one.

  Args:
    decay: of the average of squared gradients.
    eps: added to its root.

  Examples:
    >>> rmsprop_sgld().name
    'sgld(rmsprop(decay=0.99, eps=0.1))'
  """
  return sgld.sgld(preconditioner=preconditioners.rmsprop(decay, eps))


@functools.cache
def rmsprop_sgld_corrected(
  decay: float = 0.999, eps: float = 1e-8
) -> types.Sampler:
  """RMSprop-SGLD of Hitchcock and Hoogland, 2025.

  See :func:`preconditioners.rmsprop_corrected`, and there how many steps to
  leave out: until then they are too small.

  Args:
    decay: of the average of squared gradients.
    eps: added to its root.

  Examples:
    >>> rmsprop_sgld_corrected().name
    'sgld(rmsprop_corrected(decay=0.999, eps=1e-08))'
  """
  return sgld.sgld(preconditioner=preconditioners.rmsprop_corrected(decay, eps))
