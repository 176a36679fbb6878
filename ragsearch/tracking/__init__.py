"""MLflow: one experiment a space name, one parent run a search, one child run a trial.

The only package that knows MLflow. `search_run` opens and closes the parent in the driver;
`trials` is the Tune callback that keeps the children; `child` is what is known of one of them
and how it gets into MLflow, which `writer` has done in a process of its own; `final` is a trial
trained again with another seed.
"""
