"""A profiler's trace of a few optimiser steps, for the question where a trial's time goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRACE_FILE = "trace.json.gz"
"""Its name in the folder of a trial."""

_N_STEPS = 4


@contextmanager
def traced(file: Path | None) -> Iterator[None]:
    """Write a trace of optimiser steps 2 to 5 of what runs in the block.

    It is in Chrome's format, which Perfetto (ui.perfetto.dev) opens.

    Args:
        file: Where to; its folder is made. None traces nothing.
    """
    if file is None:
        yield
        return
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from torch.profiler import profile, schedule

    def write(profiler: profile) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(file))

    # the first step allocates and warms caches: it says nothing of the others
    steps = schedule(wait=0, warmup=1, active=_N_STEPS, repeat=1)
    with profile(schedule=steps, on_trace_ready=write) as profiler:
        hook = register_optimizer_step_post_hook(lambda *_: profiler.step())
        try:
            yield
        finally:
            hook.remove()
