"""Devices, fabrics and systems: what a cluster is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt
from pydantic import Field

from desim.spec.base import (
    Bytes,
    BytesPerSecond,
    BytesPerSecondOrNone,
    FlopsPerSecond,
    PositiveInt,
    Seconds,
    Share,
    Spec,
    Watts,
)

Dtype = Literal["fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4"]
AttentionBackend = Literal["unfused", "flash1", "triton", "flash2", "flash3", "cudnn"]


class AttentionEfficiency(Spec):
    """Shares of the dense peak that an attention backend reaches on long sequences.

    Tails and longest blocks are in waves of mean thread blocks under a causal mask; the defaults
    are those of list scheduling in no order of length.
    """

    forward: Share
    """Of the forward kernel."""
    backward: Share
    """Of the backward kernel."""
    forward_tail: Annotated[float, Ge(0)] = 1.0
    """Waves that the last blocks of the forward grid add."""
    backward_tail: Annotated[float, Ge(0)] = 1.0
    """The same of the backward grid."""
    forward_longest: Annotated[float, Ge(0)] = 2.0
    """Waves that the longest forward block takes alone: a grid is never faster."""
    backward_longest: Annotated[float, Ge(0)] = 2.0
    """The same of the backward grid."""


class GemmShape(Spec):
    """How the rate of a GEMM depends on its sizes, besides whole tiles.

    The defaults are those of NVIDIA's Matrix Multiplication Background User's Guide and of
    CUTLASS; `validation/fit/gemm.py` fits them for the devices of `validation/gemm.csv`.
    """

    prologue_k: Annotated[float, Ge(0)] = 128.0
    """Steps of k that filling the operand pipeline and storing the tile cost."""
    wave_loss: Annotated[float, Ge(0), Field(le=1)] = 1.0
    """Lost part of the idle time of the last wave; stream-k and clusters win some of it back."""
    half_rate_intensity: Annotated[float, Ge(0)] = 32.0
    """FLOPs per operand element at which a tile reaches half of its SM's rate. The guide puts a
    tile of 64 x 64 (32) at two thirds of 256 x 128 (85): 32/(32+c) over 85/(85+c) is 0.69."""


class DeviceKernels(Spec):
    """What kernels on a device reach, as constants of the device."""

    gemm_efficiency: dict[Dtype, Share]
    """Share of the dense peak that a large aligned GEMM of endless k sustains in training, under
    the power cap and with operands that are not in the L2 cache."""
    gemm_shape: dict[Dtype, GemmShape] = {}
    """How its rate depends on the sizes; formats left out take those of a like format."""
    gemm_accumulate: Share = 1.0
    """Rate of a GEMM that adds to an fp32 output (a weight's gradient) over that of others."""
    memory_efficiency: Share
    """Share of the memory bandwidth that a long streaming kernel reaches."""
    grouped_exposed: Annotated[float, Ge(0), Le(1)] = 0.25
    """Share of a grouped GEMM's memory time, or of its math time where that is shorter, which its
    short GEMMs do not hide (of Ampere, where a device has none measured)."""
    gemm_tile: tuple[PositiveInt, PositiveInt] = Field(strict=False)
    """Rows and columns of the output tile of the GEMM kernels that large shapes use."""
    in_step: Share = 1.0
    """Speed of the math units in a training step over that of the same kernels alone: the clock
    under the load of a whole step, and gaps between kernels."""
    memory_in_step: Share = 1.0
    """The same of what streams memory: caches that the kernels before left cold, and gaps."""
    clock_spread: Annotated[float, Ge(0), Lt(0.2)] = 0.0
    """Standard deviation, from device to device, of the time of a compute-bound kernel under the
    power cap, as a share; a job runs at the pace of its slowest device."""
    floor_s: Seconds = Field(alias="floor")
    """Shortest time between the starts of two dependent kernels of one stream."""
    attention: dict[AttentionBackend, AttentionEfficiency]
    """Fused backends that exist for the device; `unfused` is made of GEMMs and needs no entry."""


class DeviceCommunication(Spec):
    """What communication kernels take from the kernels beside them, and lose to them."""

    nvlink_sms: Annotated[int, Ge(0)]
    """Streaming multiprocessors that a collective inside the NVLink domain holds."""
    network_sms: Annotated[int, Ge(0)]
    """Streaming multiprocessors that a collective between nodes holds."""
    message_sms: Annotated[int, Ge(0)] = 2
    """Streaming multiprocessors that a send or receive holds: NCCL's channels per peer, 2 on most
    systems (NVIDIA/nccl issues 1424 and 1680)."""
    nvls_sms: Annotated[int, Ge(0)] = 0
    """Streaming multiprocessors that an in-switch (NVLS) collective holds."""
    channel_bytes_per_s: BytesPerSecond | None = Field(None, alias="channel")
    """What one channel (one multiprocessor) of a collective's kernel moves at most inside a node.
    The numbers of channels above fill the links; it counts where `policies.resources` gives a
    collective fewer. Left out: fewer channels are taken to be as fast."""
    beside_compute: Share
    """Bandwidth inside the node of a collective beside whose beginning kernels run, as a share of
    that alone; what NICs and switches carry between nodes is not slowed."""


class Device(Spec):
    """An accelerator."""

    name: str
    """What reports call it."""
    source: str
    """Where its numbers are published."""
    sms: PositiveInt
    """Streaming multiprocessors."""
    memory_bytes: Bytes = Field(alias="memory")
    """Device memory as the driver reports it."""
    memory_bytes_per_s: BytesPerSecond = Field(alias="memory_bandwidth")
    """Bandwidth of the device memory."""
    peak_flops_per_s: dict[Dtype, FlopsPerSecond] = Field(alias="peak")
    """Dense peak by dtype, without sparsity, at the boost clock."""
    power_w: Watts = Field(alias="power")
    """Power limit."""
    nvlink_bytes_per_s: BytesPerSecondOrNone = Field(alias="nvlink")
    """NVLink bandwidth of one device in one direction; 0 for a device without NVLink."""
    pcie_bytes_per_s: BytesPerSecond = Field(alias="pcie")
    """Bandwidth between host and device in one direction."""
    workspace_bytes: Bytes = Field(alias="workspace", default=32.0 * 2**20)
    """Workspace of cuBLAS: 32 MiB on Hopper and later, 8 MiB before (cuBLAS documentation)."""
    context_bytes: Bytes = Field(alias="context", default=0.5 * 2**30)
    """Memory that the driver's context and loaded kernels take of a process's device."""
    kernels: DeviceKernels
    """What kernels reach."""
    communication: DeviceCommunication
    """What communication kernels take."""

    @property
    def any_layout(self) -> bool:
        """Whether fp8 GEMMs take operands in any layout.

        Hopper's need both contiguous along k; Blackwell, the first to compute in fp4, lifts that
        (Transformer Engine user guide, FP8 current scaling, transposes).
        """
        return "fp4" in self.peak_flops_per_s


class Fabric(Spec):
    """The network between nodes."""

    name: str
    """What reports call it."""
    source: str
    """Where its numbers are published."""
    topology: Literal["rail", "fat_tree"]
    """`rail`: NIC i of every node of a pod on leaf i; `fat_tree`: a node's NICs on one leaf."""
    nic_bytes_per_s: BytesPerSecond = Field(alias="nic")
    """Bandwidth of one NIC in one direction."""
    efficiency: Share
    """Share of the NIC bandwidth that large NCCL messages reach."""
    radix: Annotated[int, Ge(4), Field(le=10**6)]
    """Ports of one switch at the NIC's rate; it sets how many spine levels a size needs."""
    oversubscription: Annotated[float, Ge(1)] = 1.0
    """Bandwidth into a leaf from below over its bandwidth upward."""
    latency_s: Seconds = Field(alias="latency")
    """One step of a ring or tree between nodes under one leaf, with NCCL's Simple protocol."""
    hop_latency_s: Seconds = Field(alias="hop_latency")
    """Added by each switch level that a step climbs above the leaf."""


class ProtocolCosts(Spec):
    """What collectives of one protocol cost inside an NVLink domain."""

    base_s: Seconds = Field(alias="base")
    """Paid once, whatever the size and the group: launch, flags, the filling of the pipeline."""
    step_s: Seconds = Field(alias="step")
    """One step of a ring, or one round of messages."""
    efficiency: Share
    """Share of the NVLink bandwidth that it reaches."""


class SimpleCosts(ProtocolCosts):
    """The same of the protocol for large sizes."""

    closing_step: Annotated[float, Ge(0), Le(4)] = 0.0
    """Time of the blocks that a kernel moves within its own device (a copy of its own input, the
    last receive of a ring), in steps: n ranks take n - 1 steps on the wire and this one."""


class NodeCollectives(Spec):
    """What NCCL's collectives cost inside the NVLink domain, as measured there."""

    source: str
    """The measurements, and the command that fitted them."""
    simple_base_s: Seconds = Field(alias="simple_base")
    """Paid once by a ring or tree with the Simple protocol; its step and share of the bandwidth are
    the system's `nvlink_latency` and `nvlink_efficiency`."""
    closing_step: Annotated[float, Ge(0), Le(4)]
    """Time of the blocks that a ring kernel moves within its own device (a copy of its own input,
    its last receive), in steps: a round of n ranks takes n - 1 steps on the wire and this one."""
    ll: ProtocolCosts
    """Rings and trees with the LL protocol (8 bytes of which 4 are data)."""
    ll128: ProtocolCosts
    """Rings and trees with the LL128 protocol (128 bytes of which 120 are data)."""
    messages_ll: ProtocolCosts
    """Sends, receives and all-to-alls with the LL protocol."""
    messages: SimpleCosts
    """Sends, receives and all-to-alls with the Simple protocol."""
    nvls_base_s: Seconds | None = Field(None, alias="nvls_base")
    """Paid once by an in-switch collective."""


#: NVLinks of one device to each of its node.
_Row = Annotated[tuple[Annotated[int, Ge(0)], ...], Field(strict=False)]


class System(Spec):
    """Nodes of one kind of device joined by one fabric."""

    name: str
    """What reports call it."""
    source: str
    """Where its numbers are published."""
    device: Device
    """A name of the catalogue, the path of a file, or the mapping."""
    fabric: Fabric
    """A name of the catalogue, the path of a file, or the mapping."""
    devices_per_node: PositiveInt
    """Devices of a node."""
    nics_per_node: PositiveInt
    """Network cards of a node."""
    nvlink_domain: PositiveInt
    """Devices that NVLink joins; 1 where the devices of a node talk over PCIe alone."""
    intra_node: Literal["nvswitch", "mesh", "pcie"]
    """What joins the devices of a node."""
    mesh_links: Annotated[tuple[_Row, ...], Field(strict=False)] | None = None
    """NVLinks between each pair of devices of a `mesh` node, a row per device; without them each
    group is taken to use all links of its devices."""
    nvls: bool
    """Whether the NVSwitch reduces in the switch (NVLink SHARP; Hopper and later)."""
    nvlink_latency_s: Seconds = Field(alias="nvlink_latency")
    """One step of a ring inside the domain, with NCCL's Simple protocol."""
    nvlink_efficiency: Share
    """Share of the NVLink bandwidth that large NCCL messages reach."""
    nvls_efficiency: Share = 1.0
    """The same for in-switch collectives; of an all-reduce over n devices, (n + 1) / n of the bytes
    leave each device."""
    node_collectives: NodeCollectives | None = None
    """Measured costs of collectives inside the domain; without them those of NCCL's own model, in
    proportion to `nvlink_latency`."""
    pcie_efficiency: Share = 0.85
    """Share of the PCIe bandwidth that pinned copies reach."""
    peer_efficiency: Share | None = None
    """Share of the PCIe bandwidth that messages between devices of a node reach where they have no
    NVLink; as `pcie_efficiency` where it is left out."""
    sockets: PositiveInt = 1
    """CPU sockets of a node, each with an equal part of its devices, where these talk over PCIe."""
    socket_bytes_per_s: BytesPerSecond | None = Field(None, alias="socket_bandwidth")
    """What messages between devices of a node get into or out of a socket, one direction, all of
    them together; left out: any."""
    host_memory_bytes: Bytes = Field(alias="host_memory")
    """Memory of a node's host."""
    host_memory_bytes_per_s: BytesPerSecond = Field(alias="host_memory_bandwidth")
    """Its bandwidth."""
    max_devices: Annotated[int, Ge(1), Lt(2**31)] | None = None
    """Devices of the largest such system that was built."""
