"""Which layers each pipeline stage holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desim.models.op import Layer
    from desim.spec.scenario import Parallel

#: Layers of a chunk, each with its number in the model (embedding 0, blocks 1.., head last).
Chunk = tuple[tuple[int, "Layer"], ...]


def split_layers(layers: tuple[Layer, ...], parallel: Parallel, chunks: int) -> list[list[Chunk]]:
    """Return the chunks of every stage: `result[stage][chunk]`.

    Model chunk q (q = chunk x stages + stage, as in Megatron-LM's interleaving) holds the q-th part
    of the blocks; the embedding joins the first model chunk and the head the last.
    """
    stages = parallel.pipeline
    parts = stages * chunks
    first, *blocks, last = layers
    sizes = _block_counts(len(blocks), parts, parallel)
    result: list[list[Chunk]] = [[] for _ in range(stages)]
    at = 0
    for q in range(parts):
        chunk = [(at + i + 1, block) for i, block in enumerate(blocks[at : at + sizes[q]])]
        at += sizes[q]
        if q == 0:
            chunk.insert(0, (0, first))
        if q == parts - 1:
            chunk.append((len(layers) - 1, last))
        result[q % stages].append(tuple(chunk))
    return result


def _block_counts(blocks: int, parts: int, parallel: Parallel) -> list[int]:
    if parallel.stage_layers is not None:
        return list(parallel.stage_layers)
    return [blocks // parts] * parts
