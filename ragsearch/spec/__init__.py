"""The space file: from YAML to a frozen `Spec`, every mistake at once with its line.

The modules, in the order the data travels:

- `document`: YAML to plain data with lines
- `draft`: overrides, domains and lookups in data that may still be wrong
- `paths`: relative paths made absolute; missing files
- `section`: the base of sections, and kinds of values
- `index_section`, `trial`, `search_section`: the keys of an index, of a trial, and of who
  searches for what
- `schema`: all other keys, one sentence each
- `domains`: what a key may vary over
- `durations`: `8h` to seconds
- `keys`: the tree the schema spans; suggestions for misspelt keys
- `knobs`: which search knobs an index has a use for
- `folders`: indexes that are there already
- `messages`: pydantic's findings in our words
- `models`: what local model folders must hold
- `uses`: which keys have no use under which values of others
- `search_rules`: which searchers, schedulers, objectives and domains go together
- `rules`: what sections must agree on
- `load`: all of it, and `Spec`
"""

from ragsearch.spec.domains import Choice, Domain, Int, Log, Ordinal, Uniform, parse_domain
from ragsearch.spec.durations import wall_s
from ragsearch.spec.index_section import ChunkSection, IndexSection
from ragsearch.spec.load import Spec, load_spec
from ragsearch.spec.schema import SIGNS, ConstraintSection, SpaceFile
from ragsearch.spec.search_section import LATENCY, METRICS, ObjectiveSection
from ragsearch.spec.trial import ModelSection, OptimSection, TrialSection

__all__ = [
    "LATENCY",
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
]
