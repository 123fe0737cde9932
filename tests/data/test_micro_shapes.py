"""Silhouettes and their rasters against closed forms and symmetries."""

from itertools import combinations

import numpy as np
import pytest

from pam_kit.data.micro.painting import COLOURS, PALETTE, SIZES, TEXTURES, paint, rasterize
from pam_kit.data.micro.shapes import KINDS, signed_distance


def grid(points: int = 201) -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-1.1, 1.1, points)
    return tuple(np.meshgrid(axis, axis))


def test_there_is_enough_to_tell_apart():
    assert len(KINDS) >= 12 and len(COLOURS) >= 8 and len(TEXTURES) == 4
    small, medium, large = SIZES.values()
    assert medium > 1.3 * small and large > 1.3 * medium


@pytest.mark.parametrize("kind", KINDS)
def test_silhouette_lies_inside_the_unit_circle(kind):
    x, y = grid()
    inside = signed_distance(kind, x, y) > 0
    assert inside.mean() > 0.15
    assert np.hypot(x, y)[inside].max() <= 1.02
    assert np.hypot(x, y)[inside].max() >= 0.85


def test_distances_of_discs_are_exact():
    x, y = grid()
    assert np.allclose(signed_distance("ball", x, y), 0.9 - np.hypot(x, y), atol=0.01)
    r = np.hypot(x, y)
    assert np.allclose(signed_distance("ring", x, y), np.minimum(0.92 - r, r - 0.5), atol=0.01)


def test_distance_and_area_of_the_box():
    x, y = grid()
    inside = signed_distance("box", x, y) > 0
    clear = (np.abs(np.abs(x) - 0.89) > 0.005) & (np.abs(np.abs(y) - 0.44) > 0.005)
    assert np.array_equal(inside[clear], ((np.abs(x) < 0.89) & (np.abs(y) < 0.44))[clear])
    assert signed_distance("box", np.zeros(1), np.zeros(1))[0] == pytest.approx(0.44, abs=0.01)
    assert signed_distance("box", np.zeros(1), np.ones(1))[0] == pytest.approx(-0.56, abs=0.01)


def test_silhouettes_differ_strongly_also_when_turned_and_scaled():
    x, y = grid(61)

    def variants(kind):
        for angle in np.deg2rad([-30, -15, 0, 15, 30]):
            c, s = np.cos(angle), np.sin(angle)
            for scale in (0.85, 1.0, 1.2):
                yield signed_distance(kind, (c * x + s * y) / scale, (c * y - s * x) / scale) > 0

    shapes = {kind: signed_distance(kind, x, y) > 0 for kind in KINDS}
    for one, other in combinations(KINDS, 2):
        overlap = max((shapes[one] & v).sum() / (shapes[one] | v).sum() for v in variants(other))
        assert overlap < 0.75, (one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_positive_rotation_is_clockwise(kind):
    upright, turned = rasterize(kind, 60.0, 0.0).inside, rasterize(kind, 60.0, np.pi / 2).inside
    assert (np.rot90(upright, -1) != turned).mean() < 0.01


@pytest.mark.parametrize("diameter", [12.0, 26.0, 57.6, 230.0])
def test_raster_has_the_area_of_the_disc_and_keeps_within_its_square(diameter):
    for kind in KINDS:
        inside = rasterize(kind, diameter, 0.2).inside
        edge = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
        assert len(inside) % 2 == 1 and not edge.any()
    area = np.pi * (0.9 * diameter / 2) ** 2
    assert rasterize("ball", diameter, 0.2).inside.sum() == pytest.approx(area, rel=0.06)


def test_body_and_accent_of_a_colour_are_nearer_to_each_other_than_bodies_of_two_colours():
    bodies = {name: np.array(body, float) for name, (body, _) in PALETTE.items()}
    for one, other in combinations(COLOURS, 2):
        assert np.linalg.norm(bodies[one] - bodies[other]) > 85, (one, other)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("texture", TEXTURES)
def test_texture_mixes_body_and_accent_by_its_share(colour, texture):
    """Half of a striped or checked surface is accent, of a dotted one the dots, whose radius is 0.3 periods."""
    raster = rasterize("ball", 200.0, 0.1)
    window = np.zeros((3, *raster.distance.shape), np.float32)
    paint(window, raster, colour, texture, 0.0, 256)
    body, accent = (np.array(c, float) for c in PALETTE[colour])
    core = window[:, raster.distance > 8].mean(axis=1)
    share = np.dot(core - body, accent - body) / np.dot(accent - body, accent - body)
    expected = {"plain": 0.0, "striped": 0.5, "dotted": np.pi * 0.09, "checked": 0.5}[texture]
    assert share == pytest.approx(expected, abs=0.05)
