import gzip
import json
from pathlib import Path

import torch

from ragsearch.training.trace import traced


def steps(n: int) -> None:
    layer = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(n):
        layer(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def n_linear(file: Path) -> int:
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return sum(event.get("name") == "aten::linear" for event in events)


def test_a_trace_holds_the_operators_of_the_second_to_the_fifth_step(tmp_path: Path) -> None:
    file = tmp_path / "trial-0000" / "trace.json.gz"

    with traced(file):
        steps(9)

    assert n_linear(file) == 4


def test_a_short_training_is_traced_to_its_end(tmp_path: Path) -> None:
    with traced(tmp_path / "trace.json.gz"):
        steps(3)

    assert n_linear(tmp_path / "trace.json.gz") == 2


def test_nothing_is_traced_after_the_block_or_without_a_file(tmp_path: Path) -> None:
    with traced(None):
        steps(2)
    with traced(tmp_path / "empty"):
        pass
    steps(3)

    assert list(tmp_path.iterdir()) == []
