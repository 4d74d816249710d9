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


def write_texts(folder, begin=""):
    """Twelve text files of one form, the later the longer."""
    for i in range(12):
        (folder / f"{i}.txt").write_text(f"{begin}{i} and {i * i} and " * (10 + 7 * i))
    return folder
