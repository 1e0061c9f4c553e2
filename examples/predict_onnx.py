"""Predicts images with a file from `vitrellis export`: python predict_onnx.py FILE.onnx IMAGE..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
facts = session.get_modelmeta().custom_metadata_map
names, steps = json.loads(facts["class_names"]), json.loads(facts["preprocessing"])
height, width = steps["img_size"]
if steps["crop_mode"] == "border" or (steps["crop_mode"] == "center" and height != width):
    sys.exit("this example squashes images, or crops squares; docs/export.md has the other ways")
if steps["value_range"]:
    sys.exit("this example reads 8-bit images; use vitrellis predict FILE.onnx")
for file in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(file)).convert(
        "RGB" if steps["channels"] == 3 else "L"
    )
    wide, tall = steps["resize_size"][::-1]
    if steps["crop_mode"] == "center":  # the shorter side, here of a square
        long = tall * max(image.size) // min(image.size)
        wide, tall = (long, tall) if image.width >= image.height else (wide, long)
    image = image.resize((wide, tall), Image.Resampling[steps["interpolation"].upper()])
    left, top = round((wide - width) / 2), round((tall - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    pixels = pixels.reshape(1, height, width, -1).transpose(0, 3, 1, 2)
    (probabilities,) = session.run(["probabilities"], {"images": pixels})
    print(file, names[probabilities[0].argmax()], f"{probabilities[0].max():.6f}", sep=",")
