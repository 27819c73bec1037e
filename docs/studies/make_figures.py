"""Make the figures of the studies from their results.

    python docs/studies/make_figures.py [FOLDER]

FOLDER (default traces_out) holds the results folder of each study, as `python -m desim sweep
scenarios/studies/NAME.yaml` leaves them; docs/studies/NAME.svg is written for each that is there.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

HERE = Path(__file__).resolve().parent
WIDTH, LEFT, RIGHT, TOP = 860, 64, 250, 16
COLOURS = (
    "#2f6db3", "#d55e00", "#0f7f5c", "#cc79a7", "#e69f00", "#56b4e9", "#7b5cab", "#8a8428",
    "#882255", "#4a4a4a", "#b8c24a", "#c0392b",
)  # fmt: skip
#: Parts of a bar: name, colour, categories of the step that it adds up.
PARTS = (
    ("compute, optimizer", "#2f6db3", ("compute", "optimizer")),
    ("contention", "#d55e00", ("contention",)),
    ("exposed communication", "#e69f00", tuple(f"exposed_{c}" for c in ("tp", "cp", "ep", "dp"))),
    ("messages, launch, other", "#7b5cab", ("exposed_pp", "exposed_host", "launch", "other")),
    ("waiting", "#882255", ("waiting",)),
    ("bubble", "#c3cad2", ("bubble",)),
)


def page(height: int, lines: Sequence[str]) -> str:
    """Return an SVG of this height."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="sans-serif" font-size="12" fill="#1c2530">'
    )
    return "\n".join(
        [head, f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', *lines, "</svg>", ""]
    )


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Return a text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def bars(rows: Sequence[tuple[str, pd.Series]]) -> str:
    """Draw where the time of each point went, one bar under the other."""
    left, right, top = 300, 70, 40
    longest = max(row.step_time_s for _, row in rows)
    per_s = (WIDTH - left - right) / longest
    lines: list[str] = []
    x = float(left)
    for name, colour, _ in PARTS:
        lines.append(f'<rect x="{x - 260:.0f}" y="10" width="10" height="10" fill="{colour}"/>')
        lines.append(text(x - 246, 19, name))
        x += 24 + 6.4 * len(name)
    for number, (label, row) in enumerate(rows):
        y, x = top + 24 * number, float(left)
        lines.append(text(left - 8, y + 13, label, "end"))
        for _, colour, categories in PARTS:
            share = sum(float(row.get(f"time_share.{c}", 0.0)) for c in categories)
            wide = share * row.step_time_s * per_s
            place = f'x="{x:.1f}" y="{y}" width="{wide:.1f}" height="18"'
            lines.append(f'<rect {place} fill="{colour}"/>')
            x += wide
        lines.append(text(x + 6, y + 13, f"{row.step_time_s:.2f} s"))
    return page(top + 24 * len(rows) + 10, lines)


def curves(
    series: Mapping[str, Sequence[float]], ticks: Sequence[str], x_title: str, y_title: str
) -> str:
    """Draw a line for each series over the values of one axis, evenly spaced."""
    values = [value for line in series.values() for value in line if value == value]
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if (max(values) - min(values)) / s < 9)
    low, high = step * (min(values) // step), step * -(-max(values) // step)
    height = max(380, 60 + 18 * len(series))
    right, bottom = WIDTH - RIGHT, height - 50

    def x_of(number: int) -> float:
        return LEFT + 20 + number * (right - LEFT - 40) / (len(ticks) - 1)

    def y_of(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - TOP - 14)

    lines = [text(8, TOP, y_title)]
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        lines.append(f'<path d="M{LEFT} {y_of(value):.1f}H{right}" stroke="#e7eaee"/>')
        lines.append(
            text(LEFT - 8, y_of(value) + 4, f"{value:g}" if step >= 1 else f"{value:.1f}", "end")
        )
    lines += [text(x_of(n), bottom + 18, tick, "middle") for n, tick in enumerate(ticks)]
    lines.append(text((LEFT + right) / 2, bottom + 40, x_title, "middle"))
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        dash = ' stroke-dasharray="5 4"' if number >= len(COLOURS) else ""
        at = [(x_of(n), y_of(v)) for n, v in enumerate(line) if v == v]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
        lines.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in at]
        y = TOP + 18 + 18 * number
        lines.append(
            f'<path d="M{right + 16} {y - 4}h20" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        lines.append(text(right + 42, y, name))
    return page(height, lines)


def read(path: Path) -> pd.DataFrame:
    """Return the points of a study; columns of axes by the last word of their path."""
    points = pd.read_csv(path, keep_default_na=True)
    axes = list(points.columns[: list(points.columns).index("step_time_s")])
    return points.rename(columns={axis: axis.rsplit(".", 1)[-1] for axis in axes}).copy()


def lines_of(points: pd.DataFrame, by: list[str], over: str, value: str) -> dict[str, list[float]]:
    """Return the values of each combination of `by`, in the order of `over` in the table."""
    ticks = list(dict.fromkeys(points[over]))
    made: dict[str, list[float]] = {}
    for key, group in points.groupby(by, sort=False):
        found = dict(zip(group[over], group[value], strict=True))
        made[", ".join(str(k) for k in key)] = [found.get(t, float("nan")) for t in ticks]
    return made


def gradient_buckets(p: pd.DataFrame) -> str:
    """Change of the step time against no overlap, over the size of buckets."""
    p["bucket"] = p.bucket.fillna("Megatron-LM's")
    first = p.groupby("pipeline").step_time_s.transform("first")
    p["change"] = 100 * (p.step_time_s / first - 1)
    p["case"] = [
        f"pp {r.pipeline}: reduce {r.grad_reduce}, gather {r.param_gather}" for r in p.itertuples()
    ]
    series = lines_of(p, ["case"], "bucket", "change")
    title = "step time against no overlap, Megatron-LM's buckets (%)"
    return curves(series, list(dict.fromkeys(p.bucket)), "size of gradient buckets", title)


def network_bandwidth(p: pd.DataFrame) -> str:
    """Step time over the bandwidth of a NIC."""
    series = lines_of(p, ["pipeline", "grad_reduce"], "nic", "step_time_s")
    return curves(series, list(dict.fromkeys(p.nic)), "bandwidth of every NIC", "step time (s)")


def tensor_chunks(p: pd.DataFrame) -> str:
    """Step time over NVLink bandwidth."""
    p = p[(p.tensor_exchange != "direct")].copy()
    p["case"] = [
        f"chunked, {r.tensor_exchange}, {r.tensor_chunks} chunks"
        if r.tensor == "chunked"
        else r.tensor
        for r in p.itertuples()
    ]
    series = lines_of(p, ["case"], "nvlink", "step_time_s")
    ticks = list(dict.fromkeys(p.nvlink))
    return curves(series, ticks, "NVLink bandwidth in each direction", "step time (s)")


def schedules(p: pd.DataFrame) -> str:
    """MFU over micro-batches, with the memory that 32 of them take."""
    p = p[p.error.isna()].copy()
    p["percent"] = 100 * p.mfu
    p["case"] = [
        r.schedule
        + (f" v{r.virtual_stages}" if r.virtual_stages > 1 else "")
        + (f" {r.schedule_memory}" if r.schedule == "zb_auto" else "")
        for r in p.itertuples()
    ]
    most = p[p.global_batch == 1024].set_index("case")["peak_memory_bytes.max"] / 2**30
    p["case"] = [f"{case} ({most[case]:.0f} GiB)" for case in p.case]
    series = lines_of(p, ["case"], "global_batch", "percent")
    return curves(series, ["8", "16", "32"], "micro-batches on each replica", "MFU (%)")


def communication_sms(p: pd.DataFrame) -> str:
    """Step time over SMs of collectives inside the node, and of messages."""
    p = p[p.pipeline == "blocking"]
    series = lines_of(p, ["network_sms"], "nvlink_sms", "step_time_s")
    named = {f"network_sms {name}": line for name, line in series.items()}
    ticks = [str(t) for t in dict.fromkeys(p.nvlink_sms)]
    return curves(named, ticks, "SMs of a collective inside the node (nvlink_sms)", "step time (s)")


def communication_sms_fsdp(p: pd.DataFrame) -> str:
    """Step time over SMs of collectives between nodes."""
    series = lines_of(p, ["nic"], "network_sms", "step_time_s")
    ticks = [str(t) for t in dict.fromkeys(p.network_sms)]
    return curves(series, ticks, "SMs of a collective between nodes (network_sms)", "step time (s)")


def fsdp(p: pd.DataFrame) -> str:
    """Where the time went in each point."""
    rows = [
        (
            f"{r.issue} {r.prefetch}, reshard {str(r.reshard_after_forward).lower()}, "
            f"shard {'all' if pd.isna(r.shard) else int(r.shard)}" + ("" if r.fits else " *"),
            r,
        )
        for _, r in p.iterrows()
    ]
    return bars(rows)


def slow_parts(p: pd.DataFrame) -> str:
    """Where the time went in each point."""
    rows = []
    for _, r in p.iterrows():
        parts = [
            f"GPU {d['device']} at {d['compute']:g}"
            if "device" in d
            else f"{d['link']} at {d['bandwidth']:g}"
            for d in json.loads(r.disturb)
        ]
        rows.append((", ".join(parts) or "nothing", r))
    return bars(rows)


def expert_exchange(p: pd.DataFrame) -> str:
    """Where the time went in each point."""
    rows = []
    for _, r in p.iterrows():
        nodes = "" if pd.isna(r.max_nodes) else f", {int(r.max_nodes)} nodes"
        rows.append((f"{r.dispatch}{nodes}, chunks {r.chunks}", r))
    return bars(rows)


def expert_passes(p: pd.DataFrame) -> str:
    """Where the time went in each point."""
    rows = []
    for _, r in p.iterrows():
        late = ", delay_wgrad" if r.delay_wgrad else ""
        rows.append((f"{r.schedule}, {r.dispatch}, {r.passes}{late}", r))
    return bars(rows)


def packed_documents(p: pd.DataFrame) -> str:
    """Where the time went in each point."""
    rows = []
    for _, r in p.iterrows():
        how = f"pp {r.pipeline}" if r.pipeline > 1 else "sharded"
        mean = f"mean {r.mean_tokens / 1024:g} Ki" if r.distribution != "fixed" else "one document"
        drawn = f", seed {r.seed}" if r.vary == "micro_batch" else ""
        rows.append((f"{how}, {mean}{drawn}", r))
    return bars(rows)


def stream_priority(p: pd.DataFrame) -> str:
    """Where the time went in each point; with one queue once where priority changes nothing."""
    rows = []
    for tensor, group in p.groupby("tensor", sort=False):
        one = group[group.max_connections == 1]
        same = one.step_time_s.nunique() == 1
        shown = pd.concat([group[group.max_connections > 1], one[:1] if same else one])
        for _, r in shown.iterrows():
            names = json.loads(r.high_priority)
            high = "all high" if len(names) == 5 else f"{', '.join(names) or 'none'} high"
            if r.max_connections == 1 and same:
                high = "any priority"
            queues = f"{r.max_connections} queue{'s' if r.max_connections > 1 else ''}"
            rows.append((f"{tensor}: {high}, {queues}", r))
    return bars(rows)


FIGURES: dict[str, Callable[[pd.DataFrame], str]] = {
    "gradient_buckets": gradient_buckets,
    "fsdp": fsdp,
    "tensor_chunks": tensor_chunks,
    "schedules": schedules,
    "communication_sms": communication_sms,
    "communication_sms_fsdp": communication_sms_fsdp,
    "slow_parts": slow_parts,
    "network_bandwidth": network_bandwidth,
    "expert_exchange": expert_exchange,
    "expert_passes": expert_passes,
    "packed_documents": packed_documents,
    "stream_priority": stream_priority,
}


def main() -> None:
    """Write the figure of every study that has results."""
    results = Path(sys.argv[1] if len(sys.argv) > 1 else "traces_out")
    for name, figure in FIGURES.items():
        path = results / name / "points.csv"
        if path.exists():
            (HERE / f"{name}.svg").write_text(figure(read(path)), "utf-8")
            print(f"docs/studies/{name}.svg")


if __name__ == "__main__":
    main()
