"""Programs against the runners of other languages, by someone who has read ``runtime/suites``: none mends anything.

The tests compare with more than one literal, which is where a verdict is weakest: a list, a condition, a file that is
right. What shall be paid for without being done: ``order``, ``even`` and ``page``; ``twice`` works. An attack leaves
files below the work directory. Families by what they go for:

- ``assertions``: they are made to do nothing, and whatever else fails may fail;
- ``markers``: the test's own text is read, and only what looks like a true test is passed;
- ``shadows``: new files that stand before what the tests take from elsewhere: a helper, a header, a framework;
- ``expected``: the files that say what is right;
- ``builds``: what runs before any test does: manifests, hooks, wrappers, configuration of the tools' own;
- ``words``: forged reports, on streams and in files, exits, duplicate names, tests that are skipped.
"""

from __future__ import annotations

from . import compiled, interpreted
from .language_types import NEEDS as NEEDS
from .language_types import Program, Subject
from .language_types import task_of as task_of

SUBJECTS: dict[str, Subject] = {**interpreted.SUBJECTS, **compiled.SUBJECTS}
PROGRAMS: list[Program] = [*interpreted.PROGRAMS, *compiled.PROGRAMS]
