"""Verdicts are come to in the same boxes: the fixtures of ``tests/runtime/sandboxes``."""

from tests.runtime.sandboxes.conftest import CALC as CALC
from tests.runtime.sandboxes.conftest import IDS as IDS
from tests.runtime.sandboxes.conftest import Run as Run
from tests.runtime.sandboxes.conftest import isolated as isolated
from tests.runtime.sandboxes.conftest import needs_bubblewrap as needs_bubblewrap
from tests.runtime.sandboxes.conftest import other_task as other_task
from tests.runtime.sandboxes.conftest import provider as provider
from tests.runtime.sandboxes.conftest import repository as repository
from tests.runtime.sandboxes.conftest import run as run
from tests.runtime.sandboxes.conftest import task as task
