"""The space file: from YAML to a frozen `Spec`, every mistake at once with its line.

The modules, in the order the data travels:

- `document`: YAML to plain data with lines
- `draft`: overrides, domains and lookups in data that may still be wrong
- `paths`: relative paths made absolute; missing files
- `section`: the base of sections, and kinds of values
- `index_section`, `trial`: the keys of an index and those of a trial
- `schema`: all other keys, one sentence each
- `domains`: what a key may vary over
- `durations`: `8h` to seconds
- `keys`: the tree the schema spans; suggestions for misspelt keys
- `knobs`: which search knobs an index has a use for
- `folders`: indexes that are there already
- `messages`: pydantic's findings in our words
- `models`: what local model folders must hold
- `uses`: which keys have no use under which values of others
- `rescoring`: what trained models can be tried with
- `rules`: what sections must agree on
- `load`: all of it, and `Spec`
"""

from ragsearch.spec.domains import Choice, Domain, Int, Log, Ordinal, Uniform, parse_domain
from ragsearch.spec.durations import wall_s
from ragsearch.spec.index_section import ChunkSection, IndexSection
from ragsearch.spec.load import Spec, load_spec, with_values
from ragsearch.spec.schema import (
    METRICS,
    SIGNS,
    ConstraintSection,
    ObjectiveSection,
    SpaceFile,
)
from ragsearch.spec.trial import ModelSection, OptimSection, TrialSection

__all__ = [
    "METRICS",
    "SIGNS",
    "Choice",
    "ChunkSection",
    "ConstraintSection",
    "Domain",
    "IndexSection",
    "Int",
    "Log",
    "ModelSection",
    "ObjectiveSection",
    "OptimSection",
    "Ordinal",
    "SpaceFile",
    "Spec",
    "TrialSection",
    "Uniform",
    "load_spec",
    "parse_domain",
    "wall_s",
    "with_values",
]
