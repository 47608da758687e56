"""Open equirectangular photographs safely and resize them to the working size with the seam intact.

Every image takes the same way, be it a file, bytes or a PIL image: metadata is obeyed (EXIF orientation, GPano), the
result is RGB and covers the whole sphere: 2:1, columns wrap, rows clamp. Transparency is ignored: the colours count as
they are stored. Error messages name the image, its size and what would be right.
"""

import math

from PIL import ExifTags, Image

from panollava.corpus.gpano import Placement, placement, read_gpano
from panollava.corpus.image_damage import decode
from panollava.corpus.image_files import DAMAGED, ImageError, Source, is_2_to_1, opened

BAND_ROWS = 512
LANCZOS_RADIUS = 3
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# PIL converts these by way of another mode only.
PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how the EXIF orientation has the image turned; broken EXIF and unknown values leave it as it is."""
    if image.format == "TIFF":  # PIL turns it while decoding; its size is the upright one from the beginning
        return None
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGED:
        return None
    return UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _place(image: Image.Image, *, allow_any_aspect: bool) -> Placement:
    """Return the place of the upright image on the sphere; raises ImageError for an image that is no panorama."""
    if image.format == "PNG":
        image.load()  # EXIF and XMP may follow the pixels
    turned = _turn(image) in (UPRIGHT[5], UPRIGHT[6], UPRIGHT[7], UPRIGHT[8])
    width, height = image.size[::-1] if turned else image.size
    xmp = image.info.get("xmp", b"")
    place = placement(read_gpano(xmp.encode() if isinstance(xmp, str) else xmp), (width, height))
    if place is None and not allow_any_aspect and not is_2_to_1(width, height):
        raise ImageError(
            f"{width}x{height} is {width / height:.3f}:1, not 2:1; an equirectangular panorama of this width "
            f"has {round(width / 2)} rows"
        )
    if image.mode.startswith(("I", "F")):
        raise ImageError(
            f"pixel mode {image.mode!r}; expected 8 bits per channel, such as RGB or greyscale: the range of more bits "
            "is not told, so scale them to 8"
        )
    return place or Placement((width, height), (0, 0), (width, height))


def _draft(image: Image.Image, working_height: int) -> None:
    """Let the JPEG decoder halve the image up to three times, but not below twice the working height.

    The factor divides both sides, so that the last column ends exactly at the seam. Other formats ignore it.
    """
    for factor in (8, 4, 2):
        width, height = image.width // factor, image.height // factor
        exact = (width * factor, height * factor) == image.size
        if exact and min(height, width // 2) >= 2 * working_height:
            image.draft("RGB", (width, height))
            return


def _on_sphere(image: Image.Image, place: Placement) -> Image.Image:
    """Return a decoded image upright, as RGB, on its canvas; what it does not cover is black."""
    turn = _turn(image)
    if turn is not None:
        image = image.transpose(turn)
        image.info = {}  # else it would be turned again, were it opened again
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    # Converted only if needed: a copy would take 134 MB for an 8192x4096 image.
    image = image if image.mode == "RGB" else image.convert("RGB")
    if place.whole:
        return image
    canvas = Image.new("RGB", place.canvas)
    canvas.paste(image, place.corner)
    return canvas


def image_size(source: Source) -> tuple[int, int]:
    """Return height and width of the whole panorama that an image shows; raises ImageError.

    It is upright, and a crop with GPano metadata has the size of its canvas. Pixels are decoded as far as needed only.
    """
    with opened(source) as (image, _):
        width, height = _place(image, allow_any_aspect=True).canvas
    return height, width


def open_panorama(source: Source, *, allow_any_aspect: bool = False, working_height: int | None = None) -> Image.Image:
    """Return an equirectangular image that covers the whole sphere, upright, as RGB.

    `source` is a path, the bytes of a file, an open file, or a PIL image, which stays as it is. A crop with GPano
    metadata is placed on its canvas, the rest of which is black. With `working_height`, a large JPEG file is decoded
    no finer than `to_working_size` needs for that height. With `allow_any_aspect`, an image that is not 2:1 and has no
    GPano metadata is assumed to cover the whole sphere.

    Raises:
        ImageError: the image is unreadable, damaged, too large or no panorama, with its name.
    """
    with opened(source) as (image, file):
        place = _place(image, allow_any_aspect=allow_any_aspect)
        if working_height is not None and file is not None and place.whole:
            _draft(image, working_height)
        if file is None:
            image.load()
        else:
            decode(image, file)
        return _on_sphere(image, place)


def check_image(source: Source, *, allow_any_aspect: bool = False) -> None:
    """Raise ImageError unless an image can be decoded to its end and is a panorama."""
    # Even the coarsest decoding reads the whole file, and so finds a truncated one.
    open_panorama(source, allow_any_aspect=allow_any_aspect, working_height=1)


def _wrap_columns(image: Image.Image, columns: int) -> Image.Image:
    wrapped = Image.new(image.mode, (image.width + 2 * columns, image.height))
    wrapped.paste(image.crop((image.width - columns, 0, image.width, image.height)), (0, 0))
    wrapped.paste(image, (columns, 0))
    wrapped.paste(image.crop((0, 0, columns, image.height)), (columns + image.width, 0))
    return wrapped


def to_working_size(image: Image.Image, height: int) -> Image.Image:
    """Return the image at 2 `height` x `height`, or at the largest 2:1 size that needs no upsampling.

    A Lanczos filter that continues across the seam downsamples. Columns are filtered first, in bands of rows, so that
    the memory stays near that of the image itself.
    """
    height = min(height, image.height, image.width // 2)
    if image.size == (2 * height, height):
        return image
    columns = min(math.ceil(LANCZOS_RADIUS * image.width / (2 * height)) + 1, image.width)
    narrow = Image.new(image.mode, (2 * height, image.height))
    for top in range(0, image.height, BAND_ROWS):
        rows = min(BAND_ROWS, image.height - top)
        band = _wrap_columns(image.crop((0, top, image.width, top + rows)), columns)
        inside = (columns, 0, columns + image.width, rows)
        narrow.paste(band.resize((2 * height, rows), Image.Resampling.LANCZOS, box=inside), (0, top))
    return narrow.resize((2 * height, height), Image.Resampling.LANCZOS)
