"""A workload: what is trained, on which data, towards which target."""

from dataclasses import dataclass
from typing import Any

from paceline.benchmarks.spec.plugin import Plugin
from paceline.benchmarks.spec.settings import Budget, Target


@dataclass(frozen=True)
class Workload:
    """The data, model, target and budget. They are the same for every algorithm."""

    name: str
    data: Plugin
    task: Plugin
    target: Target
    budget: Budget

    def build_task(self, data: Any) -> Any:
        """Builds the task with the arguments that the data module provides."""
        # Imported here, so that reading a benchmark does not wait seconds for torch and Lightning.
        from paceline.lightning_modules.backend.wrapped import wrapped

        provided = getattr(data, "provides", ())
        return wrapped(self.task.build(**{name: getattr(data, name) for name in provided}))

    @property
    def lacking(self) -> list[str]:
        """The methods without which the task tells only its loss, and not its logits and labels."""
        from paceline.lightning_modules.backend.wrapped import lacking, loss_only

        return lacking(self.task.cls) if loss_only(self.task.cls) else []

    @property
    def hooks_not_called(self) -> dict[str, list[str]]:
        """The hooks of Lightning that the classes have and that are not called, by class."""
        from paceline.lightning_modules.backend.wrapped import hooks_not_called, is_lightning

        asked = [self.data, self.task] if is_lightning(self.task.cls) else [self.data]
        found = {str(plugin): hooks_not_called(plugin.cls) for plugin in asked}
        return {name: hooks for name, hooks in found.items() if hooks}
