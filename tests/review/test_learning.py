"""How many labels the review's order saves, against photos chosen at random: Food-101's ten dishes, frozen features, a linear head.

`pytest tests/review/test_learning.py -s` prints the table.
"""

import numpy as np
import pytest

from scripts.review.order import in_order, margins
from tests.conftest import needs_photos
from tests.review.food10 import features_and_labels

pytestmark = [needs_photos, pytest.mark.slow]
ROUND, ROUNDS, SEEDS = 100, 3, 5
RANDOM_ROUNDS = 8


def softmax(logits):
    logits = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits / logits.sum(axis=1, keepdims=True)


def head(features, labels, classes=10, steps=150, decay=1e-3):
    """Weights (D + 1, classes) of a linear head: Nesterov's descent on the cross-entropy."""
    features = np.hstack([features, np.ones((len(features), 1), np.float32)])
    target = np.eye(classes, dtype=np.float32)[labels]
    direction = np.ones(features.shape[1], np.float32)
    for _ in range(20):  # the largest eigenvalue, by power iteration: a decomposition takes longer than the descent
        direction = features.T @ (features @ (direction / np.linalg.norm(direction)))
    rate = 1 / (0.26 * np.linalg.norm(direction) / len(features) + decay)
    weights = ahead = np.zeros((features.shape[1], classes), np.float32)
    for step in range(steps):
        gradient = features.T @ (softmax(features @ ahead) - target) / len(features) + decay * ahead
        stepped = ahead - rate * gradient
        ahead = stepped + step / (step + 3) * (stepped - weights)
        weights = stepped
    return weights


def answers(weights, features):
    return softmax(np.hstack([features, np.ones((len(features), 1), np.float32)]) @ weights)


def chosen_by_order(probabilities, pool, known, rng):
    return in_order(margins(probabilities), np.zeros(len(pool)), pool, known)[:ROUND]


def chosen_at_random(probabilities, pool, known, rng):
    return rng.permutation(len(pool))[:ROUND]


def chosen_by_margin(probabilities, pool, known, rng):
    return np.argsort(-margins(probabilities))[:ROUND]


def chosen_by_entropy(probabilities, pool, known, rng):
    return np.argsort((probabilities * np.log(probabilities + 1e-12)).sum(axis=1))[:ROUND]


def chosen_by_core_set(probabilities, pool, known, rng):
    return in_order(np.ones(len(pool)), np.zeros(len(pool)), pool, known)[:ROUND]


def accuracies(choose, rounds, seed, data):
    """Top-1 on the held-out photos after 0 to `rounds` rounds."""
    features, labels, test_features, test_labels = data
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(features))
    known, pool = list(order[: len(order) // 10]), order[len(order) // 10 :]
    found = []
    for turn in range(rounds + 1):
        weights = head(features[known], labels[known])
        found.append(float((answers(weights, test_features).argmax(axis=1) == test_labels).mean()))
        if turn < rounds:
            picked = choose(answers(weights, features[pool]), features[pool], features[known], rng)
            known += list(pool[picked])
            pool = np.delete(pool, picked)
    return found


def test_order_reaches_more_than_random_choice_with_as_many_labels():
    features, labels, held_out = features_and_labels()
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6) / np.sqrt(features.shape[1]) * 4
    data = features[~held_out], labels[~held_out], features[held_out], labels[held_out]
    ways = {
        "the review's order": chosen_by_order,
        "margin": chosen_by_margin,
        "entropy": chosen_by_entropy,
        "core-set": chosen_by_core_set,
    }
    at_random = np.mean([accuracies(chosen_at_random, RANDOM_ROUNDS, seed, data) for seed in range(SEEDS)], axis=0)
    print(f"\nrandom, after 0 to {RANDOM_ROUNDS} rounds of {ROUND}: {' '.join(f'{100 * one:.1f}' for one in at_random)}")
    results = {}
    for name, choose in ways.items():
        results[name] = np.mean([accuracies(choose, ROUNDS, seed, data) for seed in range(SEEDS)], axis=0)
        reached = np.flatnonzero(np.maximum.accumulate(at_random) >= results[name][-1])
        before = reached[0] - 1 if len(reached) and reached[0] else None
        needs = (
            "more than all"
            if before is None
            else f"{ROUND * (before + (results[name][-1] - at_random[before]) / (at_random[before + 1] - at_random[before])):.0f}"
        )
        print(f"{name:20} {' '.join(f'{100 * one:.1f}' for one in results[name])}: random needs {needs} for {ROUND * ROUNDS}")
    assert results["the review's order"][-1] > at_random[ROUNDS]
