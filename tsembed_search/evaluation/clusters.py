"""Clusters of things that are taken for one another: batches in which every row is a hard negative of others.

That batches made of clusters of a teacher's rankings need no other hard negatives is known from B3 (raghavlite/B3),
which cuts the graph of mutual neighbours by METIS. Growing clusters one neighbour at a time is ours, and simpler.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence


def clusters(near: Sequence[Sequence[int]], size: int, seed: int = 0) -> list[int]:
    """Return a cluster for each of N things, by number: each has `size` of them, but the last, which has what is left.

    `near`: what each thing is taken for. Two things are neighbours if each is taken for the other. A cluster begins
    with a thing drawn at random and takes the one with the most neighbours in it, again and again; without any, another
    one at random.
    """
    sets = [frozenset(own) for own in near]
    neighbours = [[other for other in own if thing in sets[other] and other != thing] for thing, own in enumerate(near)]
    free = list(range(len(near)))
    random.Random(seed).shuffle(free)
    found = [-1] * len(near)
    for number in range(-(-len(near) // size)):
        often: Counter[int] = Counter()
        waiting: list[tuple[int, int]] = []
        for _ in range(size):
            while waiting and (found[waiting[0][1]] >= 0 or -waiting[0][0] < often[waiting[0][1]]):
                heapq.heappop(waiting)  # taken, or in there again with more neighbours
            while free and found[free[-1]] >= 0:
                free.pop()
            if not waiting and not free:
                break
            thing = heapq.heappop(waiting)[1] if waiting else free.pop()
            found[thing] = number
            for other in neighbours[thing]:
                if found[other] < 0:
                    often[other] += 1
                    heapq.heappush(waiting, (-often[other], other))
    return found
