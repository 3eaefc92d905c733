"""Frames that the tests of the Segmenter share."""

from __future__ import annotations

import numpy as np

from breastseg_deploy.phantom import phantom_frame

SIDE = 128


FRAME = phantom_frame(0, (SIDE, SIDE)).frame


COLOUR = np.dstack([FRAME, FRAME // 2, FRAME // 3])
