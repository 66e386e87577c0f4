"""What a launch target implements and handles, under the names that targets of one's own rely on. The compiler owns
them (``compiler.target``): it meets targets there and imports none."""

from compiler.target import Artifact, Lowered, Target

__all__ = ["Artifact", "Lowered", "Target"]
