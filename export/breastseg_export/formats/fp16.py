"""`fp16`: the network alone, strongly typed float16 with the float32 islands that measurement and search find."""

from __future__ import annotations

from collections.abc import Mapping

from breastseg_deploy.bundle import FP16, NETWORK_FP16
from breastseg_export import runners
from breastseg_export.formats.format import LOGITS_SPEC, TENSOR_SPEC, ArtefactNotes, Candidate, Work, attempted
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import FLOAT16_SUMS_LIMITS, FP16_LIMITS, Compared, ParityRun, stricter
from breastseg_export.precision.half import half_network
from breastseg_export.precision.islands import IslandSearch, described
from breastseg_export.precision.layers import Groups
from breastseg_export.precision.ranges import SAFE_MAGNITUDE, Watch, necessary_islands
from breastseg_export.precision.sums import FLOAT16_SUMS, PRODUCTS, network_summing_in_float16
from breastseg_export.report import rendered


class Fp16:
    """See the module; a `Format`."""

    after_parity = False

    def check(self, frames: NamedFrames) -> None:
        """Nothing that could be wrong."""

    def make(self, work: Work) -> Candidate:
        """The network with the smallest set of float32 islands.

        Raises:
            ParityError: a layer leaves the range of float32.
        """
        watch, frames = work.watched
        necessary = necessary_islands(work.network, watch.ranges)
        work.say(f"{len(necessary)} nodes must be float32; looking for the smallest set of further ones")
        limits = stricter(FP16_LIMITS, work.settings.min_dice)
        search = IslandSearch(work.network, necessary, frames, work.checkpoint.threshold, limits)
        return attempted(search, search.smallest(), lambda groups: _candidate(work, watch, necessary, search, groups))


def _candidate(
    work: Work, watch: Watch, necessary: Mapping[str, str], search: IslandSearch, groups: Groups
) -> Candidate:
    """The network with these groups in float32."""
    half = half_network(work.network, search.islands(groups))
    work.say(f"further layers in float32: {', '.join(search.in_order(groups)) or 'none'}")
    limits = stricter(FP16_LIMITS, work.settings.min_dice)

    def notes(run: ParityRun) -> ArtefactNotes:
        details = described(search, groups, watch, necessary)
        peak = f"{details.largest_activation:.1f} at {details.largest_activation_layer} (float16 ends at 65504)"
        facts = (("float32 islands", f"{len(details.fp32_islands)} nodes"), ("largest activation", peak))
        return ArtefactNotes(
            details, facts, rendered("islands.html.j2", half=details, safe_magnitude=SAFE_MAGNITUDE, products=PRODUCTS)
        )

    return Candidate(
        FP16,
        {NETWORK_FP16: half.SerializeToString},
        (TENSOR_SPEC,),
        (LOGITS_SPEC,),
        (
            Compared(NETWORK_FP16, "ONNX Runtime", runners.network_in_onnxruntime(half, work.gabor), limits),
            Compared(
                NETWORK_FP16,
                FLOAT16_SUMS,
                network_summing_in_float16(half, work.gabor),
                stricter(FLOAT16_SUMS_LIMITS, work.settings.min_dice),
                search.frame_names,
            ),
        ),
        notes,
        advice="--precision fp32 exports without the float16 network",
    )
