"""Times of pentti beside its peers, each printed only where the result is right.

``python -m benchmarks`` runs the cases, ``python -m benchmarks.table`` makes a page of them.
"""
