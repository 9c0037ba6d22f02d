"""Whether the second of two builds lost: the median of the rounds' own ratios against a limit. Pure."""

from dataclasses import dataclass
from statistics import median

# Percent. The rate of a shared machine scatters too much for a smaller limit; CPU time does not.
RATE_LOSS_MIN = 10


def ratios(old, new):
    """New to old, round by round: what disturbs a machine for a while disturbs both programs of a round."""
    return [b / a for a, b in zip(old, new)]


@dataclass(frozen=True)
class Limits:
    """Shares that may be lost. Without one for `cpu`, CPU time is shown and not judged."""
    rate: float
    cpu: float | None

    @classmethod
    def of(cls, percent):
        if percent is None:
            return cls(RATE_LOSS_MIN / 100, None)
        return cls(max(percent, RATE_LOSS_MIN) / 100, percent / 100)

    def lost(self, rates, cpus):
        """Each limit that these ratios break, in words."""
        broken = []
        if median(rates) < 1 - self.rate:
            broken.append(f"rate × {median(rates):.3f}")
        if self.cpu is not None and median(cpus) > 1 + self.cpu:
            broken.append(f"CPU × {median(cpus):.3f}")
        return broken

    def __str__(self):
        rate = f"{self.rate * 100:g} % of the rate"
        return rate if self.cpu is None else f"{rate} or {self.cpu * 100:g} % of the CPU time"
