"""Imports done once, before the processes of tests.binaries are forked."""

import experiments.build_corpus
import experiments.estimate_rllc
import experiments.report
import experiments.train
import experiments.verify  # noqa: F401
