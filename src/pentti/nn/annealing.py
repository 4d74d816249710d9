"""Let many locations learn first, then few: a remedy against dead ones."""

from __future__ import annotations

from pentti import checks
from pentti.nn.sdm import SDMLayer

__all__ = ["AnnealedTopK"]


class AnnealedTopK:
    """Lowers a layer's `top_k` in a straight line, from many active locations to its own number.

    As inhibition grows, locations that were active beside the nearest ones have learned enough to
    become the nearest somewhere. Each new `top_k` makes `torch.compile` compile again, and after
    eight it gives up (`torch._dynamo.config.recompile_limit`): compile once the last is reached.

    A state of the layer knows nothing of its `top_k`. To go on after a restart, make both as at
    first, set `n_done` and call `step` on.

    Attributes:
        n_done: Steps taken so far.

    Args:
        layer: Whose `top_k` is lowered; it ends at the value that the layer has now.
        start: First `top_k`, at most the number of hard locations.
        n_steps: After how many calls of `step` the last value is reached.

    Raises:
        ArgumentError: if the layer is no `SDMLayer`, `start` is below its `top_k` or above its
            locations, or `n_steps` is below 1.

    Examples:
        >>> layer = SDMLayer(64, n_locations=1024, top_k=8)
        >>> anneal = AnnealedTopK(layer, start=40, n_steps=4)
        >>> [anneal.step() for _ in range(5)]
        [32, 24, 16, 8, 8]

    **Source:** Bricken et al. 2023, "Sparse distributed memory is a continual learner" (ICLR): the
    GABA switch, by which inhibition starts weak.
    """

    def __init__(self, layer: SDMLayer, *, start: int, n_steps: int) -> None:
        if not isinstance(layer, SDMLayer):
            checks.reject("AnnealedTopK", "layer", "be an SDMLayer", layer)
        decoder = layer.decoder
        last = decoder.top_k or decoder.n_locations
        self.start = checks.integer("AnnealedTopK", "start", start, last, decoder.n_locations)
        self.n_steps = checks.count("AnnealedTopK", "n_steps", n_steps)
        self.last = last
        self.n_done = 0
        self._decoder = decoder
        decoder.top_k = self.start

    def step(self) -> int:
        """Go on by one step.

        Returns:
            The layer's new `top_k`.
        """
        self.n_done = min(self.n_done + 1, self.n_steps)
        left = 1 - self.n_done / self.n_steps
        self._decoder.top_k = self.last + round((self.start - self.last) * left)
        return self._decoder.top_k
