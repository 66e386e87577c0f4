"""The phase ``supervised``: demonstrations gathered and checked, verl's SFT trainer run on them, and the run's policy
pointed at what came out.

Each part is skipped when an earlier attempt finished it. Knows what is held out, not how anything is trained.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import orjson
import yaml

from runtime import suggest
from runtime.config import (
    DemonstrationFile,
    EarlierTrials,
    PretrainedPolicy,
    RuntimeConfig,
    SupervisedStage,
    SynthSource,
    TaskSet,
    load_runtime_config,
)
from runtime.config.demonstrations import MadeDemonstrations
from runtime.config.tasks import packages_of
from runtime.demonstrations.held_out import HeldOut, package_of
from runtime.demonstrations.make import make
from runtime.demonstrations.validation import held_out_of
from runtime.errors import UserError
from runtime.files import write_whole
from runtime.launch.model import locate
from runtime.launch.phases import PreparedTasks, done, timed
from runtime.launch.rundir import RunDirectory
from runtime.models.store import digest
from runtime.tasks.prepare import prepare
from runtime.telemetry.progress import Progress
from runtime.trainer.supervised import table
from runtime.trainer.supervised.leaks import leaks
from runtime.trainer.supervised.packing import pack
from runtime.trainer.supervised.process import length_of, supervise
from runtime.trainer.supervised.solved import solved_trials

PHASE = "supervised"
FIELD = "policy.warm_start"


def stage_of(config: RuntimeConfig) -> SupervisedStage | None:
    return config.policy.warm_start if isinstance(config.policy, PretrainedPolicy) else None


def train_supervised(directory: RunDirectory, config: RuntimeConfig, progress: Progress, tasks: PreparedTasks) -> None:
    """Nothing where the spec has no such stage. Raises ``UserError`` for demonstrations that must not or cannot be
    learnt from, and what ``supervise`` raises when training fails."""
    stage = stage_of(config)
    if stage is None or done(directory, PHASE):
        return
    folder = directory.supervised
    folder.mkdir(exist_ok=True)
    with timed(directory, PHASE, progress):
        _lead(folder / "base", _base(config))
        held = _gather(directory, config, stage, progress, tasks)
        lengths = held.lengths().tolist()
        packs = pack(lengths, size=stage.tokens_per_pass, seed=config.seed)
        trainer = yaml.safe_load(directory.sft_yaml.read_text(encoding="utf-8"))["trainer"]
        try:
            length = length_of(stage, packs=len(packs), ranks=int(trainer["n_gpus_per_node"]))
        except ValueError as error:
            raise UserError(f"{FIELD}: {error}; lower tokens_per_pass, or give more demonstrations") from None
        progress.update(f"{len(held):,} demonstrations, {sum(lengths):,} tokens, {length.steps} steps")
        supervise(directory, length, stage=stage, on_progress=progress.update)
        _record(directory, held, steps=length.steps, packs=len(packs), per_step=length.packs)
        _lead(directory.policy, Path(PHASE) / "result")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _base(config: RuntimeConfig) -> Path:
    assert isinstance(config.policy, PretrainedPolicy)
    return locate(config.policy.path)


def _lead(link: Path, target: Path) -> None:
    """Let ``link`` lead to ``target``; at every moment it leads somewhere."""
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target, target_is_directory=True)
    partial.replace(link)


def _gather(
    directory: RunDirectory, config: RuntimeConfig, stage: SupervisedStage, progress: Progress, tasks: PreparedTasks
) -> table.Demonstrations:
    """Everything that is learnt from, as one file: a stage that goes on must find what it began with."""
    kept = directory.supervised / "demonstrations.parquet"
    if kept.is_file():
        return table.read(kept)
    held_out = _held_out(directory, config, stage, tasks)
    parts, problems = [], list[str]()
    for at, source in enumerate(stage.demonstrations):
        place = f"{FIELD}.demonstrations[{at}]"
        if isinstance(source, MadeDemonstrations):
            made = directory.supervised / f"made-{at}.parquet"
            if not made.is_file():
                _make(source, made, directory, config, held_out, progress)
            found = table.read(made)
        else:
            try:
                found = _of_source(source, place, base=directory.supervised / "base", progress=progress)
            except UserError as error:
                problems += error.problems
                continue
        if shows := leaks(found, held_out):
            shown = ", ".join(shows[:5]) + (f" and {len(shows) - 5} more" if len(shows) > 5 else "")
            problems.append(f"{place}: demonstrates what is held out for validation: {shown}; leave it out")
        parts.append(found)
    if problems:
        raise UserError(*problems)
    held = table.joined(parts)
    longest = min(stage.max_length or stage.tokens_per_pass, stage.tokens_per_pass)
    if stage.max_length is None:
        longest = min(longest, config.rollout.prompt_length + config.rollout.response_length)
    lengths = held.lengths()
    fits = (lengths > 1) & (lengths <= longest)
    if not fits.all():
        progress.problem(f"{int((~fits).sum()):,} of {len(held):,} demonstrations are longer than {longest:,} tokens")
    held = held.where(fits)
    if not len(held):
        raise UserError(f"{FIELD}.demonstrations: none is left of {len(lengths):,}, of at most {longest:,} tokens")
    if not held.flat("loss_mask").any():
        raise UserError(f"{FIELD}.demonstrations: no token of {len(held):,} is to be written by the policy (loss_mask)")
    progress.update(f"writing {len(held):,} demonstrations")
    held.write(kept)
    return held


def _held_out(directory: RunDirectory, config: RuntimeConfig, stage: SupervisedStage, tasks: PreparedTasks) -> HeldOut:
    """By the spec's packages and the tasks that this run has; where demonstrations are made, by all code of the
    packages too."""
    validated = [task for group in tasks.validation.values() for task in group]
    trained = {package_of(task.id) for group in tasks.train.values() for task in group} | packages_of(config.train)
    found = HeldOut.of(validated, trained=trained)
    found = replace(found, names=found.names | packages_of(config.validation))
    if not any(isinstance(one, MadeDemonstrations) for one in stage.demonstrations):
        return found
    more = held_out_of(config, cache=directory.cache)
    return HeldOut(
        more.names | found.names,
        more.functions | found.functions,
        more.tasks | found.tasks,
        more.split_keys | found.split_keys,
        more.trained | found.trained,
    )


def _make(
    wanted: MadeDemonstrations,
    out: Path,
    directory: RunDirectory,
    config: RuntimeConfig,
    held_out: HeldOut,
    progress: Progress,
) -> None:
    tasks = []
    if wanted.tasks is not None:
        tasks = prepare(
            TaskSet(name="demonstrations", source=wanted.tasks),
            cache=directory.tasks if isinstance(wanted.tasks, SynthSource) else directory.cache,
            on_problem=progress.problem,
            on_progress=progress.update,
            environment=config.environment,
        )
    made = make(
        wanted,
        out,
        config=config,
        model_folder=directory.supervised / "base",
        tasks=tasks,
        held_out=held_out,
        say=progress.update,
    )
    for why, count in made.left_out.most_common(3):
        progress.problem(f"not demonstrated: {count} {why}")


def _of_source(
    source: DemonstrationFile | EarlierTrials, place: str, *, base: Path, progress: Progress
) -> table.Demonstrations:
    if isinstance(source, DemonstrationFile):
        progress.update(f"reading {source.path}")
        return _of_file(Path(source.path).expanduser(), f"{place}.path", base=base)
    run = Path(source.run).expanduser()
    if not (run / "run.json").is_file():
        raise UserError(f"{place}.run: {run}: no run here; `{suggest.liverl('runs')}` lists the runs")
    _same_tokenizer(run, base, f"{place}.run")
    progress.update(f"reading trials of {run.name}")
    taken = solved_trials(run, per_task=source.per_task)
    notes = [f"{count} {why}" for why, count in sorted(taken.left_out.items())]
    if not len(taken.demonstrations):
        raise UserError(
            f"{place}.run: {run}: no solved trial to learn from" + (f" ({', '.join(notes)})" if notes else "")
        )
    if notes:
        progress.update(f"{run.name}: {len(taken.demonstrations)} solved trials; not taken: {', '.join(notes)}")
    return taken.demonstrations


def _of_file(path: Path, place: str, *, base: Path) -> table.Demonstrations:
    try:
        found = table.read(path)
    except UserError as error:
        raise UserError(*(f"{place}: {problem}" for problem in error.problems)) from None
    if found.tokenizer not in (None, digest(base / "tokenizer.json")):
        raise UserError(
            f"{place}: {path}: was made for another tokenizer than that of policy.path; make it for this one"
        )
    ids, known = found.flat("input_ids"), orjson.loads((base / "config.json").read_bytes()).get("vocab_size")
    if known is not None and len(ids) and not 0 <= ids.min() <= ids.max() < known:
        raise UserError(
            f"{place}: {path}: has tokens {ids.min()} to {ids.max()}, but the policy knows 0 to {known - 1}"
        )
    return found


def _same_tokenizer(run: Path, base: Path, place: str) -> None:
    """Recorded tokens mean something only to the tokenizer that made them."""
    theirs = _policy_of(RunDirectory(run.absolute()))
    name = "tokenizer.json"
    if theirs is None or not (theirs / name).is_file():
        raise UserError(f"{place}: {run}: the policy that played these trials is not here any more")
    if digest(theirs / name) != digest(base / name):
        raise UserError(f"{place}: {run}: its policy ({theirs}) has another tokenizer than this one's")


def _policy_of(run: RunDirectory) -> Path | None:
    """The folder of the policy that a run began with, or that an evaluation played."""
    from runtime.launch.score import REQUEST_FILE, request_of

    if (run.path / REQUEST_FILE).is_file() and (checkpoint := request_of(run).checkpoint) is not None:
        return Path(checkpoint)
    if run.policy.exists():
        return run.policy
    policy = load_runtime_config(run.runtime_json).policy
    try:
        return locate(policy.path) if isinstance(policy, PretrainedPolicy) else None
    except UserError:
        return None


def _record(directory: RunDirectory, held: table.Demonstrations, *, steps: int, packs: int, per_step: int) -> None:
    """What the policy was made of, and its digest."""
    folder = directory.supervised
    record = {
        "base": str((folder / "base").resolve()),
        "base_files": _digests(folder / "base"),
        "demonstrations_sha256": digest(folder / "demonstrations.parquet"),
        "demonstrations": len(held),
        "tokens": int(held.lengths().sum()),
        "scored_tokens": int(held.flat("loss_mask").sum()),
        "packs": packs,
        "packs_per_step": per_step,
        "steps": steps,
        "files": _digests(folder / "result"),
    }
    write_whole(folder / "record.json", orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")


def _digests(folder: Path) -> dict[str, str]:
    return {file.name: digest(file) for file in sorted(folder.iterdir()) if file.is_file()}
