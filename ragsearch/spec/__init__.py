"""The space file: from YAML to a frozen `Spec`, every mistake at once with its line.

The modules, in the order the data travels:

- `document`: YAML to plain data with lines
- `environment`: references to environment variables
- `extends`: a file laid over those it extends
- `draft`: overrides, domains and lookups in data that may still be wrong
- `paths`: relative paths made absolute; missing files
- `section`: the base of sections, and kinds of values
- `index_section`, `trial`, `search_section`: the keys of an index, of a trial, and of who
  searches for what
- `schema`: all other keys, one sentence each
- `domains`, `domain_parser`: what a key may vary over
- `amounts`: `8h` to seconds, `20GB` to bytes
- `keys`: the tree the schema spans; suggestions for misspelt keys
- `grammar`: the text of an expression as a tree
- `expressions`: what a tree comes to, for the values of a trial
- `space`: all that varies, with conditions, computed values and constraints
- `space_parser`, `space_rules`: how it stands in the file, and whether it fits the trial
- `knobs`: which search knobs an index has a use for
- `folders`: indexes that are there already
- `messages`: pydantic's findings in our words
- `models`: what local model folders must hold
- `uses`: which keys have no use under which values of others
- `rescoring`: what trained models can be tried with
- `search_rules`: which searchers, schedulers, objectives and domains go together
- `rules`: what sections must agree on
- `spec`: `Spec`, a file that was found right
- `load`: all of it
- `json_schema`: the schema for editors
"""

from ragsearch.spec.amounts import wall_s
from ragsearch.spec.domain_parser import parse_domain
from ragsearch.spec.domains import (
    Bundle,
    Choice,
    Domain,
    Int,
    Log,
    Normal,
    Ordinal,
    Uniform,
)
from ragsearch.spec.index_section import ChunkSection, IndexSection
from ragsearch.spec.load import load_spec
from ragsearch.spec.schema import SIGNS, ConstraintSection, SpaceFile
from ragsearch.spec.search_section import LATENCY, METRICS, ObjectiveSection
from ragsearch.spec.space import Derived, Parameter, Space
from ragsearch.spec.spec import Spec, with_values
from ragsearch.spec.trial import ModelSection, OptimSection, TrialSection

__all__ = [
    "LATENCY",
    "METRICS",
    "SIGNS",
    "Bundle",
    "Choice",
    "ChunkSection",
    "ConstraintSection",
    "Derived",
    "Domain",
    "IndexSection",
    "Int",
    "Log",
    "ModelSection",
    "Normal",
    "ObjectiveSection",
    "OptimSection",
    "Ordinal",
    "Parameter",
    "Space",
    "SpaceFile",
    "Spec",
    "TrialSection",
    "Uniform",
    "load_spec",
    "parse_domain",
    "wall_s",
    "with_values",
]
