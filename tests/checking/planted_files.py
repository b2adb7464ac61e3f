"""What can be wrong with the files of images."""

from __future__ import annotations

import numpy as np
from PIL import Image
from planted import (
    HEIGHT,
    WIDTH,
    Data,
    fault,
    picture,
)


@fault("missing-image")
def a_file_that_is_gone(data: Data) -> None:
    data.file().unlink()


@fault("missing-image", file="TRAIN01.PNG", words="train01.png is (upper and lower case)", mended=True)
def another_case(data: Data) -> None:
    data.train["images"][0]["file_name"] = "TRAIN01.PNG"


@fault(
    "missing-image",
    file="tra\u0308in.png",
    words="(another Unicode normal form)",
    also=("unlisted-images",),
    mended=True,
)
def another_normal_form(data: Data) -> None:
    data.train["images"][0]["file_name"] = "tra\u0308in.png"
    data.file().rename(data.file("tr\u00e4in.png"))


@fault("missing-image", file="a%20b.png", words="(percent-encoding)", mended=True)
def percent_encoding(data: Data) -> None:
    data.train["images"][0]["file_name"] = "a%20b.png"
    data.file().rename(data.file("a b.png"))


@fault("missing-image", file="sub\\train01.png", words="(backslashes in the path)", mended=True)
def backslashes(data: Data) -> None:
    data.train["images"][0]["file_name"] = "sub\\train01.png"
    (data.images / "sub").mkdir()
    data.file().rename(data.images / "sub" / "train01.png")


@fault("missing-image", file="images/train01.png", words="(the folder is named twice)", mended=True)
def the_folder_named_twice(data: Data) -> None:
    data.train["images"][0]["file_name"] = "images/train01.png"


@fault("missing-image", file="train01.jpg", words="(nearly the same name)", mended=True)
def another_extension(data: Data) -> None:
    data.train["images"][0]["file_name"] = "train01.jpg"


@fault("empty-file", mended=True)
def an_empty_file(data: Data) -> None:
    data.file().write_bytes(b"")


@fault("not-an-image", words="a web page", mended=True)
def a_web_page(data: Data) -> None:
    data.file().write_text("<!DOCTYPE html><html>404</html>")


@fault("not-an-image", words="Git LFS", mended=True)
def a_pointer(data: Data) -> None:
    data.file().write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@fault("unreadable-image", mended=True)
def a_truncated_file(data: Data) -> None:
    data.file().write_bytes(data.file().read_bytes()[:-2000])


@fault("unreadable-image", file="a.tiff", words="floating-point")
def floating_point(data: Data) -> None:
    data.train["images"][0]["file_name"] = "a.tiff"
    Image.new("F", (WIDTH, HEIGHT)).save(data.file("a.tiff"))
    data.file().unlink()


@fault("image-size-differs", words="32 × 24 (width × height), the annotations say 64 × 48", mended=True)
def another_size(data: Data) -> None:
    picture(1).resize((32, 24)).save(data.file())


@fault("image-size-differs", words="60 × 48")
def cut_after_annotating(data: Data) -> None:
    picture(1).crop((0, 0, 60, 48)).save(data.file())


@fault("image-size-exchanged", mended=True, also=("box-sticks-out",))
def width_and_height_exchanged(data: Data) -> None:
    data.train["images"][0] |= {"width": HEIGHT, "height": WIDTH}


def turned(data: Data, orientation: int, **size: int) -> None:
    """train01 with an EXIF tag, as a JPEG."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data.file().unlink()
    picture(1).save(data.file("turned.jpg"), exif=exif, quality=95)
    data.train["images"][0] |= {"file_name": "turned.jpg"} | size


@fault("exif-other-frame", file="turned.jpg", also=("box-sticks-out", "box-outside", "box-beyond-edge"))
def boxes_of_the_stored_picture_with_the_upright_size(data: Data) -> None:
    turned(data, 6, width=HEIGHT, height=WIDTH)


@fault("exif-unclear", file="turned.jpg", words="orientation 3")
def upside_down(data: Data) -> None:
    turned(data, 3)


@fault(
    "image-listed-twice",
    file="train02.png",
    annotation=None,
    words="also image",
    also=("unlisted-images", "object-twice"),
    mended=True,
)
def one_file_under_two_ids(data: Data) -> None:
    data.train["images"][0]["file_name"] = "train02.png"


@fault("exact-duplicates", file="copy.png", words="like", mended=True)
def a_copy(data: Data) -> None:
    picture(1).save(data.file("copy.png"))
    data.train["images"].append({"id": 99, "file_name": "copy.png", "width": WIDTH, "height": HEIGHT})
    for each in data.train["annotations"][:3]:
        data.train["annotations"].append(each | {"id": each["id"] + 1000, "image_id": 99})


@fault("duplicates-disagree", file="copy.png")
def a_copy_with_other_boxes(data: Data) -> None:
    a_copy(data)
    del data.train["annotations"][-1]


@fault("near-duplicates", file="copy.jpg")
def a_re_encoded_copy(data: Data) -> None:
    picture(1).save(data.file("copy.jpg"), quality=60)
    data.train["images"].append({"id": 99, "file_name": "copy.jpg", "width": WIDTH, "height": HEIGHT})


@fault("leaked-duplicates", file="val01.png", words="like train's", mended=True)
def a_training_image_copied_to_val(data: Data) -> None:
    picture(1).save(data.file("val01.png"))


@fault("leaked-near-duplicates", file="val01.png", words="like train's")
def a_training_image_slightly_changed_in_val(data: Data) -> None:
    picture(1).resize((32, 24)).resize((WIDTH, HEIGHT)).save(data.file("val01.png"))


@fault("shared-images", file="train01.png", also=("unlisted-images",), mended=True)
def a_training_image_listed_in_val(data: Data) -> None:
    data.val["images"][0]["file_name"] = "train01.png"


@fault("sliver-of-16-bits", words="brightest sample", mended=True)
def twelve_bits_of_sixteen(data: Data) -> None:
    grey = np.asarray(picture(1).convert("L")).astype(np.uint16) * 16
    Image.fromarray(grey).save(data.file())


@fault("blank-image")
def one_colour(data: Data) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(data.file())


@fault("elongated-image")
def a_panorama(data: Data) -> None:
    picture(1).resize((400, HEIGHT)).save(data.file())
    data.train["images"][0]["width"] = 400


@fault("huge-image", also=("mixed-sizes", "blank-image"))
def a_scan(data: Data) -> None:
    Image.new("1", (8000, 6300)).save(data.file())
    data.train["images"][0] |= {"width": 8000, "height": 6300}


@fault("mixed-sizes", file=None, words="from 64 to 640", also=("objects-small",))
def images_of_two_sources(data: Data) -> None:
    for number in range(1, 7):
        picture(number).resize((640, 480)).save(data.file(f"train{number:02}.png"))
        data.train["images"][number - 1] |= {"width": 640, "height": 480}


@fault("several-frames", file="a.gif")
def an_animation(data: Data) -> None:
    data.file().unlink()
    picture(1).save(data.file("a.gif"), save_all=True, append_images=[picture(50)])
    data.train["images"][0]["file_name"] = "a.gif"


@fault("unlisted-images", file="stray.png")
def an_image_that_nobody_lists(data: Data) -> None:
    picture(77).save(data.file("stray.png"))
