"""A ledger of tensors by name: what lives between two lines of code that says itself when a tensor ends."""

from dataclasses import dataclass, field

from .tape import Moment


@dataclass
class Ledger:
    """What lives between two lines, in bytes by name, and the fullest moment so far."""

    live: dict[str, int] = field(default_factory=dict)
    fullest: Moment = field(default_factory=lambda: Moment(0, 0, 0, "start"))

    @property
    def held(self) -> int:
        """Bytes that live now."""
        return sum(self.live.values())

    def take(self, name: str, size: int, scratch: int = 0) -> None:
        """A new tensor, and what its operation borrows."""
        self.live[name] = self.live.get(name, 0) + size
        self.borrow(name, scratch)

    def borrow(self, name: str, scratch: int) -> None:
        """An operation that needs `scratch` beside what lives."""
        now = Moment(0, self.held, scratch, name)
        self.fullest = max(self.fullest, now, key=lambda moment: moment.total)

    def drop(self, *names: str) -> None:
        """Tensors that nothing names any more."""
        for name in names:
            self.live.pop(name, None)
