"""A figure over seeds, with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Two-sided 95 % quantile by number of seeds.
STUDENT_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


@dataclass(frozen=True)
class Row:
    """One figure: its name, and its value by seed."""

    name: str
    values: list[float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.values) / len(self.values)

    @property
    def interval(self) -> float:
        """Half width of the 95 % interval of the mean; nan for a single seed."""
        n = len(self.values)
        if n not in STUDENT_T:
            return math.nan
        variance = sum((v - self.mean) ** 2 for v in self.values) / (n - 1)
        return STUDENT_T[n] * math.sqrt(variance / n)
