"""`bf16`: which nodes of the portable model stay in float32 where a processor multiplies in bfloat16; no own file.

Part of every export but the one in float32 alone. Parity is measured by rounding as bfloat16 does, on any processor.
"""

from __future__ import annotations

from breastseg_deploy.artefacts import Bf16Precision
from breastseg_deploy.bundle import BF16, MODEL
from breastseg_deploy.progress import Progress
from breastseg_export import runners
from breastseg_export.formats.format import FRAMES_SPEC, PROBABILITY_SPEC, ArtefactNotes, Candidate, Work, attempted
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import BF16_LIMITS, Compared, stricter
from breastseg_export.precision.bfloat import rounded_to_bfloat16
from breastseg_export.precision.islands import IslandSearch
from breastseg_export.precision.layers import Groups, groups
from breastseg_export.report import rendered

_HEAD = "head"
"""Always an island: a probability in bfloat16 would come in steps of up to 0.004, and the head is little work."""


class Bf16:
    """See the module; a `Format`."""

    after_parity = False

    def check(self, frames: NamedFrames) -> None:
        """Nothing that could be wrong."""

    def make(self, work: Work) -> Candidate:
        """The smallest set of float32 islands.

        Raises:
            ParityError: a layer leaves the range of float32.
        """
        _, frames = work.watched
        head = {name for group in groups(work.network) if group.name == _HEAD for name in group.node_names}
        limits = stricter(BF16_LIMITS, work.settings.min_dice)
        search = IslandSearch(work.network, head, frames, work.checkpoint.threshold, limits, rounded_to_bfloat16)
        with Progress("float32 islands of bfloat16: trying sets"):
            smallest = search.smallest()
        return attempted(search, smallest, lambda found: _candidate(work, search, found))


def _candidate(work: Work, search: IslandSearch, found: Groups) -> Candidate:
    """The model with these groups in float32."""
    details = Bf16Precision(
        fp32_islands=search.islands(found),
        groups=search.in_order(found | {_HEAD}),
        search=search.trials,
        search_frames=search.frame_names,
    )
    named = ", ".join(details.groups)
    work.say(f"in float32 where the processor multiplies in bfloat16: {named}")
    share = f"{len(details.fp32_islands)} nodes ({named}), {100 * search.share(found):.1f} % of the multiply-adds"
    notes = ArtefactNotes(details, (("float32 islands of bfloat16", share),), rendered("bf16.html.j2", bf16=details))
    network = rounded_to_bfloat16(work.network, details.fp32_islands)
    return Candidate(
        BF16,
        {},
        (FRAMES_SPEC,),
        (PROBABILITY_SPEC,),
        (
            Compared(
                MODEL,
                "ONNX Runtime rounding to bfloat16",
                runners.logits_in_onnxruntime(network, work.gabor),
                stricter(BF16_LIMITS, work.settings.min_dice),
            ),
        ),
        shared=(MODEL,),
        notes=lambda _: notes,
        advice="--precision fp32 exports float32 alone",
    )
