"""What is done to a whole project now and then: an entity is erased, another version runs beside."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headrace.app.names import Names
from headrace.app.users import os_user

if TYPE_CHECKING:
    from headrace.app.erasing import ErasureReceipt
    from headrace.app.running_beside import RunBeside
    from headrace.app.wiring import Parts


class Operations(Names):
    """The operations of a project."""

    @property
    @abstractmethod
    def parts(self) -> Parts:
        """The opened parts."""

    @abstractmethod
    def ensure_applied(self) -> None:
        """Apply the definitions if none were ever applied; raise PlanError if others are."""

    @abstractmethod
    def _reopen(self) -> None:
        """Make anew what was made of the former plan, or of the former side, when it is asked for."""

    def erase(
        self,
        entity: Any,
        key: Any,
        *,
        events: str = "unlink",
        dry_run: bool = False,
        progress: Callable[[str], object] | None = None,
    ) -> ErasureReceipt:
        """Erase an entity everywhere; the receipt says where, how much, and what remains until when.

        `events="unlink"` takes its key and personal fields out of its events, which go on counting for others; "drop"
        takes out all but their time. `dry_run` only tells what there is. Cut short, it goes on where it was when it is
        called again. `progress` is told each step. Raises SchemaError if there is no such entity, Busy if a layer runs
        that was started by itself.
        """
        from headrace.app.erasing import erase

        self.ensure_applied()
        name = entity if isinstance(entity, str) else str(getattr(entity, "name", entity))
        self._reopen()
        try:
            return erase(self.parts, name, key, who=os_user(), events=events, dry_run=dry_run, on_way=progress)
        finally:
            self._reopen()

    def erasures(self) -> list[ErasureReceipt]:
        """Receipts of all erasures, the newest last."""
        from headrace.app.erasing import receipts

        return receipts(self.parts)

    @property
    def beside(self) -> RunBeside:
        """Another version of the package beside the served one: `start`, `compare`, `switch`, `back`, `stop`, `drop`.

        It computes the same events into a side of its own, is compared value by value, and can be served.
        """
        from headrace.app.running_beside import RunBeside

        return RunBeside(self.parts, self.ensure_applied, self._reopen)
