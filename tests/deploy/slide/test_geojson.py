"""GeoJSON: drawn again it gives the labels pixel by pixel, and it keeps the rules that QuPath's reader has."""

from __future__ import annotations

import gzip
import json
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from written import ArrayRaster, drawn, features_of, filled, polygons_of, table_of

from breastseg_deploy.errors import SlideError
from breastseg_deploy.slide.writers.geojson import BLOCK_PX, write_geojson

SMALL = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MASKS = arrays(np.uint32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1))
LABELS = arrays(np.uint32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3))


def written(path: Path, labels: NDArray[Any], **options: Any) -> list[dict[str, Any]]:
    write_geojson(path, ArrayRaster(labels), table_of(labels), 0.5, **options)
    return features_of(path)


def signed_area(ring: list[list[float]]) -> float:
    return sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in pairwise(ring)) / 2


def lattice_points(ring: list[list[float]]) -> list[tuple[int, int]]:
    """All points with whole numbers on a closed axis-parallel ring, its first once."""
    points = []
    for (x, y), (next_x, next_y) in pairwise(ring):
        steps = int(abs(next_x - x) + abs(next_y - y))
        points += [(int(x + (next_x - x) * i / steps), int(y + (next_y - y) * i / steps)) for i in range(steps)]
    return points


def is_connected(pixels: NDArray[np.bool_]) -> bool:
    """Whether one can walk between any two of the pixels over their sides."""
    left = set(zip(*map(np.ndarray.tolist, np.nonzero(pixels)), strict=True))
    border = [left.pop()]
    while border:
        y, x = border.pop()
        for beside in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if beside in left:
                left.remove(beside)
                border.append(beside)
    return not left


def check_valid(features: list[dict[str, Any]], size_px: tuple[int, int]) -> None:
    """Validity as JTS has it, for rings along pixel edges: simple rings, holes inside, a connected interior."""
    for feature in features:
        for rings in polygons_of(feature):
            for ring in rings:
                assert ring[0] == ring[-1]
                assert len(ring) >= 5
                points = lattice_points(ring)
                assert len(set(points)) == len(points), "a ring that meets itself"
                assert all((a[0] == b[0]) != (a[1] == b[1]) for a, b in pairwise(ring)), "not along a pixel edge"
                headings = [a[0] == b[0] for a, b in pairwise(ring)]
                assert all(a != b for a, b in pairwise([*headings, headings[0]])), "a corner on a straight line"
            shell, *holes = rings
            assert signed_area(shell) > 0
            assert all(signed_area(hole) < 0 for hole in holes)
            inside = filled([shell], size_px)
            assert all((filled([hole], size_px) <= inside).all() for hole in holes)
            assert is_connected(filled(rings, size_px))


def check_qupath(document: Any) -> None:
    """The rules of QuPath's reader: GsonTools, QuPathTypeAdapters, ROITypeAdapters."""
    assert document["type"] == "FeatureCollection"
    ids = [feature["id"] for feature in document["features"]]
    assert len(set(ids)) == len(ids)
    for feature in document["features"]:
        assert set(feature) == {"type", "id", "geometry", "properties"}
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert feature["geometry"]["type"] in ("Polygon", "MultiPolygon")
        properties = feature["properties"]
        assert set(properties) == {"objectType", "name", "measurements"}  # no classification: a name alone throws
        assert properties["objectType"] == "detection"
        assert isinstance(properties["name"], str)
        for name, value in properties["measurements"].items():
            assert isinstance(name, str)
            assert isinstance(value, int | float) or value in ("NaN", "Infinity", "-Infinity")


@SMALL
@given(MASKS)
def test_a_mask_of_one_cell_comes_back_pixel_by_pixel_in_valid_polygons(tmp_path: Path, labels: Any) -> None:
    """Holes, diagonal touching and the slide's edges are all in masks as small as these."""
    features = written(tmp_path / "cells.geojson.gz", labels)
    np.testing.assert_array_equal(drawn(features, labels.shape), labels)
    check_valid(features, labels.shape)


@SMALL
@given(LABELS)
def test_cells_that_touch_come_back_pixel_by_pixel_in_valid_polygons(tmp_path: Path, labels: Any) -> None:
    features = written(tmp_path / "cells.geojson.gz", labels)
    np.testing.assert_array_equal(drawn(features, labels.shape), labels)
    check_valid(features, labels.shape)


def test_the_area_of_the_polygons_is_the_number_of_pixels(tmp_path: Path) -> None:
    labels = (np.random.default_rng(1).random((60, 70)) < 0.6).astype(np.uint32)
    (feature,) = written(tmp_path / "cells.geojson.gz", labels)
    area = sum(signed_area(ring) for rings in polygons_of(feature) for ring in rings)
    assert area == labels.sum() == feature["properties"]["measurements"]["area_px"]


def test_a_hole_that_touches_the_outside_by_a_corner_leaves_both_rings_simple(tmp_path: Path) -> None:
    labels = np.ones((4, 4), np.uint32)
    labels[0, 0] = labels[1, 1] = 0
    features = written(tmp_path / "cells.geojson.gz", labels)
    ((shell, hole),) = polygons_of(features[0])
    assert (len(shell), len(hole)) == (7, 5)
    check_valid(features, labels.shape)


def test_a_part_of_a_cell_inside_its_own_hole_keeps_its_own_hole(tmp_path: Path) -> None:
    labels = np.ones((11, 11), np.uint32)
    labels[1:10, 1:10] = 0
    labels[1:10, 1:10][2:7, 2:7] = 1
    labels[5, 5] = 0
    features = written(tmp_path / "cells.geojson.gz", labels)
    assert [len(rings) for rings in polygons_of(features[0])] == [2, 2]
    check_valid(features, labels.shape)


def test_qupath_finds_what_it_asks_for(tmp_path: Path) -> None:
    labels = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((5, 5))).astype(np.uint32)
    cells = table_of(labels)
    cells["mean_intensity"][0], cells["eccentricity"][1], cells["perimeter_px"][2] = np.nan, np.inf, -np.inf
    write_geojson(tmp_path / "cells.geojson.gz", ArrayRaster(labels), cells, None)
    with gzip.open(tmp_path / "cells.geojson.gz") as file:
        document = json.load(file, parse_constant=pytest.fail)
    check_qupath(document)
    told = [feature["properties"]["measurements"] for feature in document["features"]]
    assert (told[0]["mean_intensity"], told[1]["eccentricity"], told[2]["perimeter_px"]) == (
        "NaN",
        "Infinity",
        "-Infinity",
    )


def test_places_count_from_the_corner_of_the_top_left_pixel(tmp_path: Path) -> None:
    labels = np.zeros((8, 9), np.uint32)
    labels[2, 3] = 1
    (feature,) = written(tmp_path / "cells.geojson.gz", labels)
    assert feature["geometry"]["coordinates"] == [[[3, 2], [4, 2], [4, 3], [3, 3], [3, 2]]]


def test_a_rescaled_slide_is_outlined_in_the_pixels_of_its_file(tmp_path: Path) -> None:
    labels = np.zeros((8, 9), np.uint32)
    labels[2, 3] = 1
    (feature,) = written(tmp_path / "cells.geojson.gz", labels, pixel_scale=(2.0, 2.5))
    assert feature["geometry"]["coordinates"] == [[[7.5, 4], [10, 4], [10, 6], [7.5, 6], [7.5, 4]]]


def test_cells_across_blocks_and_larger_than_one_are_whole(tmp_path: Path) -> None:
    labels = np.zeros((BLOCK_PX + 300, 2 * BLOCK_PX + 90), np.uint32)
    labels[BLOCK_PX - 5 : BLOCK_PX + 5, BLOCK_PX - 5 : BLOCK_PX + 5] = 2
    labels[100, 10 : 2 * BLOCK_PX] = 1  # longer than a block
    labels[BLOCK_PX + 100 :, 2 * BLOCK_PX :] = 3
    features = written(tmp_path / "cells.geojson.gz", labels)
    assert len(features) == 3
    np.testing.assert_array_equal(drawn(features, labels.shape), labels)


def test_ids_and_bytes_are_the_same_in_every_run_and_other_for_another_outline(tmp_path: Path) -> None:
    labels = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((3, 3))).astype(np.uint32)
    first = written(tmp_path / "first.geojson.gz", labels)
    written(tmp_path / "second.geojson.gz", labels)
    assert (tmp_path / "first.geojson.gz").read_bytes() == (tmp_path / "second.geojson.gz").read_bytes()
    labels[0, 0] = 0
    other = written(tmp_path / "other.geojson.gz", labels)
    assert [a["id"] == b["id"] for a, b in zip(first, other, strict=True)] == [False, True, True, True]


def test_a_slide_without_cells_is_an_empty_collection(tmp_path: Path) -> None:
    assert written(tmp_path / "cells.geojson.gz", np.zeros((5, 5), np.uint32)) == []


def test_a_cell_without_pixels_is_a_sentence_and_no_file(tmp_path: Path) -> None:
    labels = np.ones((5, 5), np.uint32)
    cells = table_of(labels)
    cells["number"] = 7
    with pytest.raises(SlideError, match=r"^cell 7 has no pixels in the labels of its box"):
        write_geojson(tmp_path / "cells.geojson.gz", ArrayRaster(labels), cells, None)
    assert list(tmp_path.iterdir()) == []
