"""When a run ends by itself, after a checkpoint, because going on would train on rubbish or break the machine."""

from typing import Annotated

from pydantic import Field

from runtime.config.base import Count, Model

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class Health(Model):
    """What a run may suffer before it ends by itself: after the next checkpoint, which is written for it, with a
    message and exit code 4. Shares are those of the newest 64 trials, validations included. The machine ends it in
    the same way, where 97 % of the memory are in use for ten seconds; or before the next step, without a checkpoint,
    where less than 512 MiB of disk are free."""

    failed_trials: Share = 0.5
    """Most of them may end without a grade, for whatever reason. 1: never a reason to stop."""
    verifier_crashes: Share = 0.25
    """Most of them may be left without a grade by a verifier that crashed or gave no answer in time."""
    signal_groups: Count | None = 64
    """The gate before reinforcement: of so many groups at the start of a run at least one must hold trials of different
    reward; with PPO and REINFORCE++, which compare over the whole batch, these groups together. Where all are alike no
    advantage differs from 0, and nothing would be learnt. null: no gate."""
    least_correlation: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.98
    """Where the trainer's probabilities of the tokens correlate less with those that the engine sampled with, in three
    steps in a row and by more than 0.002 in the mean, what is learnt is wrong. Not asked of stale trials. null: never a
    reason to stop."""
    token_mismatches: Share = 0.25
    """Most of them may hold a reply that is malformed or whose log-probabilities are unusable. (A replica
    whose weights have another fingerprint than the trainer's gets no rollouts at all.)"""
