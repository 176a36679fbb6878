"""MLflow: one experiment a space name, one parent run a search, one child run a trial.

The only package that knows MLflow. `search_run` opens and closes the parent in the driver;
`trials` is the Tune callback that keeps the children; `child` is what is known of one of them
and how it gets into MLflow.
"""

from ragsearch.tracking.final import FinalChild
from ragsearch.tracking.search_run import SearchRun
from ragsearch.tracking.trials import Known, TrialRuns

__all__ = ["FinalChild", "Known", "SearchRun", "TrialRuns"]
