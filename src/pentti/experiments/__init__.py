"""One file for each question; each answers with claims, figures, tables and a conclusion."""

from __future__ import annotations

from pentti.experiments.ablation import EXPERIMENT as ABLATION
from pentti.experiments.activation import EXPERIMENT as ACTIVATION
from pentti.experiments.beta import EXPERIMENT as BETA
from pentti.experiments.capacity import EXPERIMENT as CAPACITY
from pentti.experiments.circle import EXPERIMENT as CIRCLE
from pentti.experiments.continual import EXPERIMENT as CONTINUAL
from pentti.experiments.degradation import EXPERIMENT as DEGRADATION
from pentti.experiments.digits import EXPERIMENT as DIGITS
from pentti.experiments.language import EXPERIMENT as LANGUAGE
from pentti.experiments.layer_cost import EXPERIMENT as LAYER_COST
from pentti.experiments.needle import EXPERIMENT as NEEDLE
from pentti.experiments.pairs import EXPERIMENT as PAIRS
from pentti.experiments.personal import EXPERIMENT as PERSONAL
from pentti.experiments.questions import EXPERIMENT as QUESTIONS
from pentti.experiments.recall import EXPERIMENT as RECALL
from pentti.experiments.recall_state import EXPERIMENT as STATE
from pentti.experiments.relevance import EXPERIMENT as RELEVANCE

__all__ = ["EXPERIMENTS"]

EXPERIMENTS = {
    e.name: e
    for e in (
        DIGITS,
        CIRCLE,
        RELEVANCE,
        CAPACITY,
        DEGRADATION,
        ACTIVATION,
        PAIRS,
        CONTINUAL,
        LAYER_COST,
        RECALL,
        STATE,
        NEEDLE,
        QUESTIONS,
        PERSONAL,
        LANGUAGE,
        ABLATION,
        BETA,
    )
}
"""All experiments by name, in the order of the report."""
