"""Which layers each pipeline stage holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.plan.schedules.passes import part_of

if TYPE_CHECKING:
    from desim.models.op import Layer
    from desim.spec.scenario import Parallel

#: Layers of a chunk, each with its number in the model (embedding 0, blocks 1.., head last).
Chunk = tuple[tuple[int, "Layer"], ...]


def split_layers(
    layers: tuple[Layer, ...],
    parallel: Parallel,
    chunks: int,
    *,
    folded_back: bool = False,
    mirrored: bool = False,
) -> list[list[Chunk]]:
    """Return the chunks of every stage: `result[stage][chunk]`.

    Model chunk q (numbered by `part_of`) holds the q-th part of the blocks; the embedding joins the
    first model chunk and the head the last. `mirrored`: the chunks of a stage are parts of two
    pipelines of the whole model, so that every part is on two stages.
    """
    stages = parallel.pipeline
    parts = stages * (1 if mirrored else chunks)
    first, *blocks, last = layers
    sizes = _block_counts(len(blocks), parts, parallel)
    cut: list[Chunk] = []
    at = 0
    for q in range(parts):
        chunk = [(at + i + 1, block) for i, block in enumerate(blocks[at : at + sizes[q]])]
        at += sizes[q]
        if q == 0:
            chunk.insert(0, (0, first))
        if q == parts - 1:
            chunk.append((len(layers) - 1, last))
        cut.append(tuple(chunk))
    return [
        [cut[part_of(stage, stages, c, folded_back=folded_back) % parts] for c in range(chunks)]
        for stage in range(stages)
    ]


def _block_counts(blocks: int, parts: int, parallel: Parallel) -> list[int]:
    if parallel.stage_layers is not None:
        return list(parallel.stage_layers)
    return [blocks // parts] * parts


def numbered_from_zero(chunk: Chunk) -> Chunk:
    """The chunk with layers numbered from its first, so that equal chunks share a template."""
    first = chunk[0][0]
    return tuple((number - first, layer) for number, layer in chunk)
