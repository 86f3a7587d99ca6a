"""Copies of photos, and different things before one background, that near-duplicates are measured on (measure_duplicates.py)."""

import io
import itertools
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Change = Callable[[Image.Image], Image.Image]
Scene = Callable[[Image.Image, random.Random], Image.Image]
PAINTS = ("firebrick", "seagreen", "royalblue", "gold", "black", "white", "darkorange", "sienna")


def encoded(image: Image.Image, image_format: str, **options: int) -> Image.Image:
    """The image written to a file and read again."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return Image.open(buffer).convert("RGB")


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """The image without these shares of its sides."""
    x, y = image.size
    return image.crop((round(left * x), round(top * y), x - round(right * x), y - round(bottom * y)))


COPIES: dict[str, Change] = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "square, 128 pixels": lambda image: image.resize((128, 128)),
    "brightness x 0.7": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "brightness x 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast x 0.7": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "contrast x 1.3": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "gamma 1.3": lambda image: image.point([round(255 * (k / 255) ** 1.3) for k in range(256)] * 3),
    "colour x 1.4": lambda image: ImageEnhance.Color(image).enhance(1.4),
    "greyscale": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 180 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turned by 270, mirrored": lambda image: ImageOps.mirror(image.transpose(Image.Transpose.ROTATE_270)),
    "JPEG, quality 30": lambda image: encoded(image, "JPEG", quality=30),
    "WebP, quality 30": lambda image: encoded(image, "WEBP", quality=30),
    "cropped by 2 % all round": lambda image: cropped(image, 0.02, 0.02, 0.02, 0.02),
    "cropped by 4 % all round": lambda image: cropped(image, 0.04, 0.04, 0.04, 0.04),
    "cropped by 5 % at the top": lambda image: cropped(image, 0, 0.05, 0, 0),
    "cropped by 7 % all round": lambda image: cropped(image, 0.07, 0.07, 0.07, 0.07),
    "cropped by 10 % all round": lambda image: cropped(image, 0.1, 0.1, 0.1, 0.1),
    "cropped by 10 % at the left": lambda image: cropped(image, 0.1, 0, 0, 0),
    "mirrored, cropped, JPEG 50": lambda image: encoded(ImageOps.mirror(cropped(image, 0.03, 0.01, 0, 0.02)), "JPEG", quality=50),
    "black border": lambda image: ImageOps.expand(image, image.width // 20, "black"),
    "white border, JPEG 60": lambda image: encoded(ImageOps.expand(image, image.width // 12, "white"), "JPEG", quality=60),
    "letterbox": lambda image: ImageOps.pad(image, (image.width, round(1.25 * image.height)), color="black"),
}


def shot(image: Image.Image, rng: random.Random, light: float = 0.06, shift: float = 2.0, noise: float = 3.0) -> Image.Image:
    """The scene as a camera takes it: a little moved, lighter or darker, with noise, as JPEG."""
    move = (1, 0, rng.uniform(-shift, shift), 0, 1, rng.uniform(-shift, shift))
    image = image.transform(image.size, Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)
    image = image.crop((4, 4, image.width - 4, image.height - 4))
    pixels = np.asarray(image, np.float32) * rng.uniform(1 - light, 1 + light)
    pixels += np.random.default_rng(rng.randrange(2**30)).normal(0, noise, pixels.shape)
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG", quality=88)


def pasted(ground: Image.Image, photo: Image.Image, side: int, place: tuple[int, int]) -> Image.Image:
    """The photo, cut to an ellipse, on a copy of the ground."""
    dish = ImageOps.fit(photo, (side, round(0.8 * side)))
    mask = Image.new("L", dish.size)
    ImageDraw.Draw(mask).ellipse((2, 2, dish.width - 3, dish.height - 3), fill=255)
    scene = ground.copy()
    scene.paste(dish, (place[0] - dish.width // 2, place[1] - dish.height // 2), mask.filter(ImageFilter.GaussianBlur(1)))
    return scene


def tray() -> Image.Image:
    """A tray with plate, cutlery and napkin on a wooden table."""
    grain = np.random.default_rng(5).normal((150, 110, 70), 12, (248, 328, 3))
    image = Image.fromarray(grain.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((20, 20, 308, 228), 20, fill=(60, 80, 90), outline=(200, 200, 205), width=5)
    pen.ellipse((85, 45, 245, 205), fill=(235, 235, 230), outline=(190, 190, 190), width=3)
    pen.rectangle((265, 50, 275, 200), fill=(190, 190, 195))
    pen.rounded_rectangle((35, 60, 75, 120), 6, fill=(220, 210, 180))
    return image


def page(photos: list[Image.Image], rng: random.Random) -> Image.Image:
    """A page of a catalogue: nine products with lines of text."""
    image = Image.new("RGB", (308, 408), (253, 253, 253))
    pen = ImageDraw.Draw(image)
    for number, photo in enumerate(photos):
        x, y = 30 + number % 3 * 90, 40 + number // 3 * 110
        image.paste(photo.resize((60, 60)), (x, y))
        pen.rectangle((x, y + 66, x + 60, y + 69), fill=(120, 120, 120))
        pen.rectangle((x, y + 74, x + 40, y + 76), fill=(150, 150, 150))
    return shot(image, rng, 0.02, 1, 1)


def mug(paints: tuple[str, ...]) -> Image.Image:
    """A mug on a saucer, of three colours: the mug's, the handle's and the saucer's."""
    image = tray()
    pen = ImageDraw.Draw(image)
    pen.ellipse((105, 150, 225, 200), fill=paints[2], outline=(90, 90, 90))
    pen.ellipse((185, 80, 230, 140), outline=paints[1], width=10)
    pen.rectangle((120, 60, 200, 170), fill=paints[0])
    pen.ellipse((120, 50, 200, 75), fill=(70, 40, 25), outline=(230, 230, 230), width=3)
    return image


def soup(ground: Image.Image, photo: Image.Image) -> Image.Image:
    """The photo's colours, as a soup in one bowl."""
    bowl = ground.copy()
    pen = ImageDraw.Draw(bowl)
    pen.ellipse((115, 75, 215, 175), fill=(215, 215, 220), outline=(120, 120, 125), width=3)
    mask = Image.new("L", bowl.size)
    ImageDraw.Draw(mask).ellipse((125, 85, 205, 165), fill=255)
    bowl.paste(ImageOps.fit(photo, bowl.size).filter(ImageFilter.GaussianBlur(30)), mask=mask)
    return bowl


def form(rng: random.Random) -> Image.Image:
    """A form of twelve fields, filled in by other words each time."""
    image = Image.new("RGB", (600, 800), (252, 252, 250))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    pen.rectangle((30, 30, 570, 90), fill=(40, 70, 130))
    for number in range(12):
        y = 130 + number * 53
        pen.text((40, y), f"Field {number}", (60, 60, 60), font)
        pen.rectangle((150, y - 8, 560, y + 30), outline=(120, 120, 120), width=2)
        words = ["".join(rng.choices("abcdefghiklmnoprstuw", k=rng.randint(3, 9))) for _ in range(rng.randint(1, 4))]
        pen.text((160, y), " ".join(words), (20, 20, 60), font)
    return image


def shirt(paint: str, cloth: Image.Image) -> Image.Image:
    """A shirt on a bench: the cloth's folds in one colour."""
    bench = np.random.default_rng(9).normal((120, 125, 130), 10, (300, 300, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(bench).filter(ImageFilter.GaussianBlur(2))
    folds = ImageOps.colorize(ImageOps.fit(cloth, image.size).convert("L").filter(ImageFilter.GaussianBlur(4)), "black", paint)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(
        [(60, 70), (110, 50), (190, 50), (240, 70), (220, 130), (200, 120), (200, 260), (100, 260), (100, 120), (80, 130)], 255
    )
    image.paste(folds, mask=mask)
    return image


def shelf(photo: Image.Image) -> Image.Image:
    """A bottle on a shelf, with the photo as its label."""
    image = Image.new("RGB", (260, 340), (165, 140, 105))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 290, 260, 340), fill=(90, 60, 40))
    pen.rounded_rectangle((85, 90, 175, 292), 14, fill=(25, 60, 40))
    pen.rectangle((115, 30, 145, 95), fill=(25, 60, 40))
    image.paste(ImageOps.fit(photo, (62, 50)), (99, 170))
    return image


def letter(rng: random.Random) -> Image.Image:
    """A page of one text after another, in the same lines."""
    image = Image.new("RGB", (620, 800), (250, 249, 245))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for line in range(24):
        words = ["".join(rng.choices("aeinorstlmdu", k=rng.randint(2, 10))) for _ in range(9)]
        pen.text((50, 60 + line * 28), " ".join(words)[:58], (30, 30, 30), font)
    return image


def street(paint: str, place: int) -> Image.Image:
    """A parking place by a fixed camera, with one car."""
    image = Image.new("RGB", (328, 248), (135, 160, 190))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 90, 328, 248), fill=(95, 95, 98))
    for x in range(0, 328, 41):
        pen.rectangle((x, 30 + x % 3 * 10, x + 36, 100), fill=(150 - x // 4, 110, 90 + x // 5), outline=(60, 50, 50))
        pen.line((x, 130, x - 30, 200), fill=(230, 230, 220), width=3)
    x = 80 + place
    pen.rounded_rectangle((x, 150, x + 80, 180), 8, fill=paint)
    pen.rounded_rectangle((x + 18, 132, x + 60, 155), 8, fill=paint)
    for wheel in (x + 12, x + 54):
        pen.ellipse((wheel, 172, wheel + 16, 188), fill="black")
    return image


def scenes(photos: list[Image.Image]) -> dict[str, Scene]:
    """What is made of a photo, by the name of the kind."""
    ground, white, camera = tray(), Image.new("RGB", (308, 308), (250, 250, 250)), ImageOps.fit(photos[-1], (328, 248))

    def on(ground: Image.Image, least: int, most: int, jitter: int, *options: float) -> Scene:
        def scene(photo: Image.Image, rng: random.Random) -> Image.Image:
            place = (ground.width // 2 + rng.randint(-jitter, jitter), ground.height // 2 + rng.randint(-jitter, jitter))
            return shot(pasted(ground, photo, rng.randint(least, most), place), rng, *options)

        return scene

    paints = itertools.cycle(itertools.product(PAINTS, repeat=3))
    return {
        "photos as they are": lambda photo, rng: photo,
        "one tray, dish of a third": on(ground, 95, 125, 8),
        "one tray, dish of a fifth": on(ground, 55, 70, 12),
        "product of half a white page": on(white, 110, 170, 0, 0.02, 1, 1),
        "product of a sixth of it": on(white, 40, 55, 4, 0.02, 1, 1),
        "catalogue, 3 of 9 differ": lambda photo, rng: page([*photos[-6:], photo, *rng.sample(photos[:-6], 2)], rng),
        "catalogue, 1 of 9 differs": lambda photo, rng: page([*photos[-8:], photo], rng),
        "fixed camera, thing of a fifth": on(camera, 45, 75, 20),
        "one mug, a colour differs": lambda _, rng: shot(mug(next(paints)), rng),
        "one bowl, soups differ": lambda photo, rng: shot(soup(ground, photo), rng),
        "one form, words differ": lambda _, rng: shot(form(rng), rng, 0.02, 1, 1),
    }


def other_scenes(photos: list[Image.Image]) -> dict[str, Scene]:
    """The same for kinds that no value was chosen by."""
    cars, steps = itertools.cycle(PAINTS), itertools.count()
    paints = itertools.cycle(
        f"hsl({hue}, {strength}%, {light}%)" for light in (30, 50, 70) for strength in (40, 90) for hue in range(0, 360, 30)
    )
    return {
        "one shirt, colour differs": lambda _, rng: shot(shirt(next(paints), photos[0]), rng),
        "one shelf, labels differ": lambda photo, rng: shot(shelf(photo), rng, 0.04, 1, 2),
        "one letter, text differs": lambda _, rng: shot(letter(rng), rng, 0.02, 1, 1),
        "fixed camera, one car": lambda _, rng: shot(street(next(cars), 20 * (next(steps) // len(PAINTS))), rng, 0.04, 1, 2),
    }
