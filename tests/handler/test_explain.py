"""The heat map: where the network looks is where it is hot."""

import io
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from handler.explain import GRID, HEAT_MAP_BATCH, covers, explanation, heat_map, overlay
from handler.preprocess import crop as crop_of
from handler.preprocess import resized_side
from handler.program import Answers, load_program


class Looking:
    """A program whose class 0 is as probable as one region is bright, and class 1 the rest; a photo costs `seconds`."""

    def __init__(self, rows, columns, seconds=0.0):
        self.region, self.seconds, self.batches = (slice(None), slice(*rows), slice(*columns)), seconds, []

    def __call__(self, crops):
        self.batches.append(len(crops))
        time.sleep(self.seconds * len(crops))
        bright = crops[self.region].mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32) / 255
        return Answers(np.stack([bright, 1 - bright], axis=1), bright, bright[:, None])


def scene(rows, columns, size=(224, 224)):
    """A dark crop, bright in one region."""
    crop = np.full((*size, 3), 40, np.uint8)
    crop[slice(*rows), slice(*columns)] = 230
    return crop


def centre(rows, columns, size):
    """The middle of a region, in cells of the grid."""
    return np.array([sum(rows) / 2 / size[0], sum(columns) / 2 / size[1]]) * GRID - 0.5


@pytest.mark.parametrize(
    ("rows", "columns", "size"),
    [
        ((20, 70), (150, 210), (224, 224)),
        ((90, 140), (90, 140), (224, 224)),
        ((0, 40), (0, 40), (224, 224)),
        ((184, 224), (100, 150), (224, 224)),
        ((10, 26), (44, 60), (64, 64)),
        ((60, 120), (200, 280), (200, 300)),
    ],
)
def test_heat_is_highest_where_the_answer_comes_from_and_none_is_far_from_it(rows, columns, size):
    heat = heat_map(Looking(rows, columns), scene(rows, columns, size), 0)
    assert (heat.shape, heat.dtype) == ((GRID, GRID), np.float32)
    hottest = np.array(np.unravel_index(heat.argmax(), heat.shape))
    assert np.abs(hottest - centre(rows, columns, size)).max() <= 2
    grid = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID), indexing="ij"), axis=-1)
    far = np.abs(grid - centre(rows, columns, size)).max(axis=-1) > 0.4 * GRID
    assert far.any()
    assert np.abs(heat[far]).max() < 0.01 * heat.max()


def test_heat_is_the_fall_in_probability_and_negative_for_the_other_class():
    rows, columns = (100, 124), (100, 124)  # smaller than a patch: one that covers it all takes the most there is
    crop = scene(rows, columns)
    heat, other = (heat_map(Looking(rows, columns), crop, index) for index in (0, 1))
    assert 0.3 < heat.max() <= (230 - crop.mean().round()) / 255 + 1e-6
    np.testing.assert_allclose(other, -heat, atol=1e-6)


def test_about_a_hundred_crops_are_asked_in_batches_and_the_same_bits_come_twice():
    program = Looking((20, 70), (20, 70))
    crop = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    before = crop.copy()
    first = heat_map(program, crop, 0)
    assert sum(program.batches) == 101
    assert max(program.batches) == HEAT_MAP_BATCH
    assert heat_map(program, crop, 0).tobytes() == first.tobytes()
    np.testing.assert_array_equal(crop, before)


def test_map_and_picture_take_under_two_seconds_for_a_network_like_levit_256():
    crop = scene((20, 70), (20, 70))
    started = time.perf_counter()
    overlay(crop, heat_map(Looking((20, 70), (20, 70), seconds=0.0027), crop, 0))
    assert time.perf_counter() - started < 2


def test_trained_network_looks_at_the_pieces_and_not_at_the_table(exported):
    program = load_program(exported, json.loads((exported / "program.json").read_text()), 1)
    image = Image.new("RGB", (64, 64), (200, 210, 190))
    pen = ImageDraw.Draw(image)
    pen.ellipse((40, 35, 70, 65), fill=(150, 200, 220))
    image = image.filter(ImageFilter.GaussianBlur(4))
    pen = ImageDraw.Draw(image)
    for x, y in ((12, 12), (20, 10), (14, 22)):
        pen.rectangle((x - 7, y - 7, x + 7, y + 7), fill="darkorange")  # what training/data/pictures.py draws for class 1
    crop = np.array(image)
    assert program(crop[None])[0][0].argmax() == 1
    heat = heat_map(program, crop, 1)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert max(row, column) < GRID / 2
    assert heat[: GRID // 2, : GRID // 2].mean() > 3 * np.abs(heat[GRID // 2 :, GRID // 2 :]).mean()
    assert heat_map(program, crop, 1).tobytes() == heat.tobytes()


@pytest.mark.parametrize("size", [(224, 224), (64, 64), (200, 300)])
def test_picture_has_the_crops_size_and_is_yellow_where_it_is_hot(size):
    heat = np.zeros((GRID, GRID), np.float32)
    heat[2:5, 8:12] = 0.4
    heat[12, 2] = -0.4
    png = overlay(np.full((*size, 3), 128, np.uint8), heat)
    assert png.startswith(b"\x89PNG\r\n")
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", size[::-1])
        picture = np.asarray(image).astype(int)
    hot = picture[int(size[0] * 3.5 / GRID), int(size[1] * 10 / GRID)]
    cold = picture[int(size[0] * 12.5 / GRID), int(size[1] * 2.5 / GRID)]
    assert min(hot[0], hot[1]) > hot[2] + 60
    assert cold[2] > cold[0] > cold[1]


def test_map_of_nothing_stays_cold_and_noise_is_not_stretched():
    crop = np.full((64, 64, 3), 128, np.uint8)
    nothing = overlay(crop, np.zeros((GRID, GRID), np.float32))
    noise = np.random.default_rng(0).normal(0, 1e-6, (GRID, GRID)).astype(np.float32)
    assert len(np.unique(np.asarray(Image.open(io.BytesIO(nothing))).reshape(-1, 3), axis=0)) == 1
    assert np.ptp(np.asarray(Image.open(io.BytesIO(overlay(crop, noise)))).astype(int), axis=(0, 1)).max() <= 1


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 100), (300, 300)])
def test_covers_is_the_part_of_the_photo_that_the_crop_shows(spec, crop_mode, size):
    spec = replace(spec, crop_mode=crop_mode, interpolation="bilinear")
    width, height = size
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = np.linspace(0, 255, width)[None, :]
    photo[..., 1] = np.linspace(0, 255, height)[:, None]
    seen = crop_of(Image.fromarray(photo), spec)[20:-20, 20:-20]
    box = covers(size, spec)
    side = spec.input_size[1]
    for channel, (low, high) in enumerate((("left", "right"), ("top", "bottom"))):
        along = seen[..., channel].mean(axis=channel) / 255  # over the other side
        expected = box[low] + (box[high] - box[low]) * (np.arange(20, side - 20) + 0.5) / side
        np.testing.assert_allclose(along, expected, atol=0.02)
    assert 0 <= box["left"] < box["right"] <= 1
    if crop_mode == "center" and size == (1000, 100):
        assert box["right"] - box["left"] == pytest.approx(0.1 * side / resized_side(spec), abs=1e-3)


def test_explanation_is_json_with_the_grid_and_what_it_covers(spec):
    heat = np.arange(GRID * GRID, dtype=np.float32).reshape(GRID, GRID) / 1000
    answer = json.loads(json.dumps(explanation("ramen", 7, 0.9, heat, (640, 480), spec)))
    assert answer.keys() == {"label", "index", "probability", "grid", "grid_size", "covers"}
    assert (answer["label"], answer["index"], answer["probability"], answer["grid_size"]) == ("ramen", 7, 0.9, [GRID, GRID])
    assert answer["grid"][0][:3] == [0, 0.001, 0.002]
    assert answer["grid"][1][0] == pytest.approx(GRID / 1000)
    assert answer["covers"] == covers((640, 480), spec)
