"""verl's data set, whose next row is the curriculum's choice; its state goes into verl's checkpoints.

verl makes its sampler itself (``create_rl_sampler``), but not the data set (``data.custom_cls``), and torchdata saves
and restores what a data set that has ``state_dict`` says of itself beside the sampler's place. With ``data.shuffle``
off and no workers that place is but a count, and every row that is asked for is the next prompt. Upstream:
``verl/utils/dataset/rl_dataset.py`` and ``verl/trainer/ppo/v1/trainer_base.py``, 0.9.1, torchdata 0.11.
"""

from __future__ import annotations

from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

from runtime.config import load_runtime_config
from runtime.run_paths import RunPaths
from runtime.trainer.chosen import CHOSEN
from runtime.trainer.curriculum import Curriculum


class CurriculumDataset(RLHFDataset):  # type: ignore[misc]
    """Of the training file; of any other file verl's own."""

    def __init__(self, data_files: Any, tokenizer: Any, config: Any, **settings: Any) -> None:
        super().__init__(data_files=data_files, tokenizer=tokenizer, config=config, **settings)
        self._curriculum: Curriculum | None = None
        if data_files != config.train_files:
            return
        contract = load_runtime_config(RunPaths.of_process().runtime_json)
        assert contract.curriculum is not None, "the compiler chooses this class for a curriculum"
        rows = self.dataframe["extra_info"]
        self._curriculum = CHOSEN.curriculum = Curriculum(
            contract.curriculum,
            [(str(row["task_set"]), str(row["task_id"])) for row in rows],
            weights={one.name: one.weight for one in contract.train if one.weight is not None},
            seed=contract.seed,
            prompts=int(config.train_batch_size),
        )

    def __getitem__(self, item: int) -> Any:
        return super().__getitem__(item if self._curriculum is None else self._curriculum.draw())

    def state_dict(self) -> dict[str, Any]:
        return {} if self._curriculum is None else self._curriculum.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._curriculum is not None and state:
            self._curriculum.load(state)
