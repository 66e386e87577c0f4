"""What text that people see must not hold: secrets, and characters that would change a terminal or break a line.

Messages quote values of specs, and a secret in the wrong field is a likely mistake. Knows no field of a spec.
"""

from __future__ import annotations

import re

SECRET = re.compile(
    r"(sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{20,}|(AKIA|ASIA)[A-Z0-9]{16}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY[\s\S]*|xox[abp]-[A-Za-z0-9-]{10,}|glpat-[A-Za-z0-9_-]{20})"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
    r"|(?<=://)(?i:(hooks\.slack(-gov)?\.com/(services|workflows|triggers)|(\w+\.)?discord(app)?\.com/api/(v\d+/)?webhooks"
    r"|[\w.-]+\.webhook\.office\.com|chat\.googleapis\.com/v1/spaces)/[^\s\"']+"
    r"|[\w.-]+\.(logic\.azure|powerplatform)\.com(:\d+)?/[^\s\"']*[?&]sig=[^\s\"']+)"
)
"""Text that looks like a secret: keys by the marks of those who issue them, passwords in addresses, and addresses to
which whoever knows them may post."""
KEY = re.compile(r"(^|[_-])(token|password|passwd|secret|api[_-]?key|access[_-]?key|private[_-]?key)$", re.IGNORECASE)
"""Names of fields that hold one."""
HIDDEN = "(looks like a secret, not shown)"
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def redact(text: str) -> str:
    """The text without secrets."""
    return SECRET.sub(HIDDEN, text)


def printable(text: str) -> str:
    """One line that a terminal shows as it is: control characters and lone surrogates become escapes."""
    return _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
