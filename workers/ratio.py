"""The replay-ratio gate: how far collecting and training may run apart.

tokens collected  --------------------------------|........ slack ........|  workers WAIT beyond
tokens trained / ratio  ------------|........ slack ........|                learner waits beyond
"""

from __future__ import annotations

from dataclasses import dataclass

from pydreaming.config import ReplayConfig


@dataclass(frozen=True)
class RatioGate:
    """Decides on both sides from the same two counters, so that at least one side may always go on.

    ratio: times each collected token is trained on; 0: no limit. prefill, slack: tokens.
    """

    ratio: float
    prefill: int
    slack: int

    @staticmethod
    def of(config: ReplayConfig) -> RatioGate:
        """The gate that the configuration asks for."""
        return RatioGate(config.replay_ratio, config.prefill_tokens, config.slack_tokens)

    def may_write(self, written: int, trained: int) -> bool:
        """Whether workers may collect more, after `written` tokens collected and `trained` tokens trained on."""
        return self.ratio <= 0 or written <= self.prefill or written - trained / self.ratio <= self.slack

    def may_start(self, written: int, passes_done: int) -> bool:
        """Whether there is enough for the first batch: the prefill, or all there is when a pass holds less."""
        return written > 0 and (written >= self.prefill or passes_done > 0)

    def may_train(self, written: int, trained: int, exhausted: bool) -> bool:
        """Whether the learner may take another step. Once collecting is over (`exhausted`) nothing holds it back."""
        return self.ratio <= 0 or exhausted or trained / self.ratio - written <= self.slack
