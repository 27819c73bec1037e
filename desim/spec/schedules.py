"""Families of pipeline schedules that rules and plans both ask for."""

from __future__ import annotations

#: Weight gradients fill the gaps (Qi et al. 2024).
ZERO_BUBBLE = ("zb_h1", "zb_h2", "zb_1p", "zb_2p", "zb_v", "zb_auto")
#: Micro-batches run from both ends of the model at once (DeepSeek-AI 2024).
DUALPIPE = ("dualpipe", "dualpipe_v")
#: A stage holds `parallel.virtual_stages` chunks of the model.
INTERLEAVED = ("interleaved", "breadth_first")
#: A stage holds two chunks, the second of which runs from the last stage back to the first.
TWO_CHUNKS = ("zb_v", "dualpipe_v")
