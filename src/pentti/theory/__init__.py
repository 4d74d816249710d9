"""The mathematics of Sparse Distributed Memory: numbers in, numbers out, no tensors."""

from pentti.theory.capacity import (
    bit_fidelity,
    capacity,
    mean_bit_fidelity,
    memory_capacity,
    optimal_probability,
    radius_for_capacity,
    radius_for_signal_to_noise,
    signal_to_noise,
)
from pentti.theory.critical import critical_distance, radius_for_critical_distance
from pentti.theory.geometry import (
    activation_probabilities,
    activation_probability,
    circle_intersection,
    circle_intersections,
    lune_intersection,
    overlap_curve,
    radius_for,
)
from pentti.theory.jaeckel import (
    hyperplane_overlap,
    hyperplane_probability,
    selected_coordinates_overlap,
    selected_coordinates_probability,
)
from pentti.theory.parts import (
    parts_cap_intersection,
    parts_cap_probability,
    parts_cosine_for,
)
from pentti.theory.product import (
    any_head,
    any_head_intersection,
    cut_probability,
    one_head,
    product_cap_intersection,
    product_cap_probability,
    product_cosine_for,
)
from pentti.theory.softmax import (
    BetaFit,
    best_beta,
    beta,
    sdm_weights,
    softmax_weights,
    total_variation,
)
from pentti.theory.sphere import cap_intersection, cap_probability, cosine_for

__all__ = [
    "BetaFit",
    "activation_probabilities",
    "activation_probability",
    "any_head",
    "any_head_intersection",
    "best_beta",
    "beta",
    "bit_fidelity",
    "cap_intersection",
    "cap_probability",
    "capacity",
    "circle_intersection",
    "circle_intersections",
    "cosine_for",
    "critical_distance",
    "cut_probability",
    "hyperplane_overlap",
    "hyperplane_probability",
    "lune_intersection",
    "mean_bit_fidelity",
    "memory_capacity",
    "one_head",
    "optimal_probability",
    "overlap_curve",
    "parts_cap_intersection",
    "parts_cap_probability",
    "parts_cosine_for",
    "product_cap_intersection",
    "product_cap_probability",
    "product_cosine_for",
    "radius_for",
    "radius_for_capacity",
    "radius_for_critical_distance",
    "radius_for_signal_to_noise",
    "sdm_weights",
    "selected_coordinates_overlap",
    "selected_coordinates_probability",
    "signal_to_noise",
    "softmax_weights",
    "total_variation",
]
