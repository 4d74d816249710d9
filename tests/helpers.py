"""What tests of several files call."""

import torch


def outcome_of(work):
    """What a generator returns, and what it yielded."""
    outcome = []

    def run():
        outcome.append((yield from work))

    yielded = list(run())
    return outcome[0], yielded


def seeded(seed=1):
    """Randomness that starts from a seed."""
    return torch.Generator().manual_seed(seed)
