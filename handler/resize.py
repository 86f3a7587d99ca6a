"""Image.resize by SIMD instructions, in a fifth to a third of the time, where there is a wheel for this CPU; else Pillow's own.

Pillow computes the same weights and rounds them less: a value differs by at most 1 of 255 for each direction that is resized.
"""

from PIL import Image

try:
    import cykooz_resizer as simd
except ImportError:  # ARM
    simd = None

FILTERS = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "catmull_rom",
    Image.Resampling.LANCZOS: "lanczos3",
}


def resize(
    image: Image.Image, size: tuple[int, int], resampling: Image.Resampling, box: tuple[float, float, float, float]
) -> Image.Image:
    """The part `box` of an RGB image (left, top, right, bottom, in pixels), as an image of `size` (width, height)."""
    if simd is None:
        return image.resize(size, resampling, box)
    left, top, right, bottom = box
    weights = simd.ResizeAlg.convolution(simd.FilterType[FILTERS[resampling]])
    result = Image.new("RGB", size)
    options = simd.ResizeOptions(resize_alg=weights, crop_box=simd.CropBox(left, top, right - left, bottom - top))
    simd.Resizer().resize_pil(image, result, options)
    return result
