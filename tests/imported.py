"""What the processes of tests.binaries have imported when they are forked."""

import experiments.build_corpus
import experiments.estimate_rllc
import experiments.report
import experiments.train
import experiments.verify  # noqa: F401
