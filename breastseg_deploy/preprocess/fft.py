"""The edge channel on the CPU by FFT: tiles that stay in the cache, filters in pairs, float32.

The filters are real, so two of them share one complex inverse transform: with kernels a and b, the inverse transform of
X * (A + iB) carries the response to a in its real part and the response to b in its imaginary part. A tile then costs
1 forward and K / 2 inverse transforms instead of K * 961 multiply-adds per pixel. Tiles overlap by the kernel's reach
(overlap-save), so the result does not depend on where they are cut; at 288 x 288 complex64 (0.7 MB) one stays in a
core's second-level cache, which a whole 576 x 576 frame (2.7 MB) does not.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.preprocess.gabor import LUMA_BT601, RADIUS_PX, GaborParameters, check_side, gabor_bank

_REACH_PX = 2 * RADIUS_PX
_TILE_PX = 288 - _REACH_PX
"""Longest side of a tile's own pixels."""


def edge_channel(
    rgb: NDArray[np.uint8], parameters: GaborParameters | None = None, threads: int = 1
) -> NDArray[np.float32]:
    """The edge channel of one frame, within 1e-5 of `gabor.edge_channel_reference`.

    Args:
        rgb: (H, W, 3) uint8, H and W >= 32.
        parameters: of the bank; the paper's by default.
        threads: how many threads share the tiles; the result is the same to the bit.

    Returns:
        (H, W) float32 in [-1, 1], C-contiguous.

    Raises:
        ArgumentError: H or W below 32.
    """
    height, width = rgb.shape[:2]
    check_side(height, width)
    weights = np.array(LUMA_BT601, np.float32) / np.float32(255)
    padded = np.pad(rgb.astype(np.float32) @ weights, RADIUS_PX, mode="reflect")
    tile = _tile_side(height), _tile_side(width)
    spectra = _paired_spectra(*tile, parameters or GaborParameters())
    edge = np.empty((height, width), np.float32)

    def fill(corner: tuple[int, int]) -> None:
        here = tuple(slice(start, start + side) for start, side in zip(corner, tile, strict=True))
        seen = tuple(slice(start, start + side + _REACH_PX) for start, side in zip(corner, tile, strict=True))
        own = edge[here]
        own[:] = _largest_response(padded[seen], spectra, own.shape)

    corners = list(itertools.product(range(0, height, tile[0]), range(0, width, tile[1])))
    if threads == 1 or len(corners) == 1:
        for corner in corners:
            fill(corner)
    else:
        list(_workers(threads).map(fill, corners))  # NumPy's transforms release the interpreter lock
    return edge


@lru_cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads for all calls of the process: new ones for each call would each leave a heap of the allocator behind."""
    return ThreadPoolExecutor(threads, thread_name_prefix="edge channel")


def _largest_response(
    seen: NDArray[np.float32], spectra: NDArray[np.complex64], own: tuple[int, ...]
) -> NDArray[np.float32]:
    """Maximum over the bank for the `own` pixels of one tile, from the pixels that its kernels see."""
    # Zeros stand only where no kept response looks, so the transform's wrapping around is harmless.
    spectrum: NDArray[Any] = np.zeros(spectra.shape[1:], np.complex64)
    spectrum[: seen.shape[0], : seen.shape[1]] = seen
    np.fft.fft(spectrum, axis=1, out=spectrum)
    np.fft.fft(spectrum, axis=0, out=spectrum)
    # Buffers are made once: fresh arrays for every filter cost more in page faults than the transforms do.
    product: NDArray[Any] = np.empty_like(spectrum)
    rows: NDArray[Any] = np.empty((own[0], spectrum.shape[1]), spectrum.dtype)
    best = np.full((*own, 2), -np.inf, np.float32)  # running maxima of the two halves of the pairs
    for pair in spectra:
        np.multiply(spectrum, pair, out=product)
        np.fft.ifft(product, axis=0, out=product)
        np.fft.ifft(product[RADIUS_PX : RADIUS_PX + own[0]], axis=1, out=rows)
        responses = rows[:, RADIUS_PX : RADIUS_PX + own[1]].view(np.float32).reshape(best.shape)
        np.maximum(best, responses, out=best)
    return np.asarray(np.maximum(best[..., 0], best[..., 1]))


@lru_cache(maxsize=4)
def _paired_spectra(height: int, width: int, parameters: GaborParameters) -> NDArray[np.complex64]:
    """Transfer functions A + iB of the bank's kernels in pairs; (ceil(K / 2), rows, columns) complex64, 8 MB."""
    bank = gabor_bank(parameters)
    centred = np.zeros((len(bank), _fast_length(height + _REACH_PX), _fast_length(width + _REACH_PX)))
    centred[:, : bank.shape[1], : bank.shape[2]] = bank
    centred = np.roll(centred, (-RADIUS_PX, -RADIUS_PX), axis=(1, 2))
    transfer = np.conj(np.fft.fft2(centred))  # conjugate: correlation, as in the reference, not convolution
    if len(transfer) % 2:
        transfer = np.concatenate([transfer, transfer[-1:]])
    paired = (transfer[0::2] + 1j * transfer[1::2]).astype(np.complex64)
    paired.flags.writeable = False
    return paired


def _tile_side(side: int) -> int:
    """Side of equal tiles that cover `side` pixels with as few tiles of at most _TILE_PX as possible."""
    tiles = -(-side // _TILE_PX)
    return -(-side // tiles)


def _fast_length(length: int) -> int:
    """The smallest 2^a * 3^b >= `length`. With a factor 5 or 7 the transform takes up to a third longer."""
    while (6**16) % length:  # every 2^a * 3^b below 2^16 divides it, and nothing else does
        length += 1
    return length
