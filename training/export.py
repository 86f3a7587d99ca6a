"""Export a checkpoint: `python training/export.py --checkpoint runs/latest/checkpoint.pt --out build/1.0.0`.

Writes model.onnx (uint8 crops in, probabilities out), spec.json, index_to_name.json and golden.json: generated
pictures with the probabilities that torch computes for them, by which the archive proves itself wherever it runs.
"""

import argparse
import base64
import io
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from handler.preprocess import Spec, coarse, preprocess
from training.model import Checkpoint, Classifier
from training.pictures import draw

# float32 on another engine or CPU moves a probability by some 1e-5; a wrong crop or mean moves it by far more
GOLDEN_TOLERANCE = 1e-3
# JPEG decoders on other CPUs may round a pixel the other way; a field of pixels hardly moves
CROP_TOLERANCE = 2


class ExportedProgram(nn.Module):
    """uint8 crops (B, H, W, 3) -> probabilities (B, num_classes): normalise -> network -> temperature -> softmax."""

    def __init__(self, classifier: Classifier, temperature: float) -> None:
        super().__init__()
        self.classifier, self.temperature = classifier, temperature

    def forward(self, crops: Tensor) -> Tensor:
        logits: Tensor = self.classifier(crops)
        return (logits / self.temperature).softmax(1)


def golden_pictures() -> dict[str, bytes]:
    """Generated pictures in the forms that photos come in, as files, by name."""
    rng = random.Random(101)

    def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        return buffer.getvalue()

    held_sideways = Image.Exif()
    held_sideways[0x0112] = 6
    see_through = draw(2, rng, (240, 300)).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    return {
        "landscape.jpg": encoded(draw(0, rng, (400, 300)), "JPEG", quality=90),
        "sideways.jpg": encoded(draw(1, rng, (400, 260)), "JPEG", quality=90, exif=held_sideways),
        "alpha.png": encoded(see_through, "PNG"),
        "cmyk.jpg": encoded(draw(3, rng, (300, 300)).convert("CMYK"), "JPEG", quality=90),
    }


def golden_answers(program: nn.Module, spec: Spec) -> dict[str, Any]:
    """The content of golden.json for this program."""
    photos = []
    for name, picture in golden_pictures().items():
        crop = preprocess(picture, spec)  # (H, W, 3)
        with torch.inference_mode():
            probabilities = program(torch.from_numpy(crop)[None])[0]
        photos.append(
            {
                "name": name,
                "image": base64.b64encode(picture).decode(),
                "coarse_crop": coarse(crop).tolist(),
                "probabilities": [round(p, 7) for p in probabilities.tolist()],
            }
        )
    return {"tolerance": GOLDEN_TOLERANCE, "crop_tolerance": CROP_TOLERANCE, "photos": photos}


def export(checkpoint: Checkpoint, out: Path) -> None:
    """Write the exported form into the folder `out`, aside first; a folder that was there is replaced."""
    classifier, spec = checkpoint.classifier()
    program = ExportedProgram(classifier.to(memory_format=torch.contiguous_format), checkpoint.temperature).eval()
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)

    crops = torch.zeros(2, *spec.input_size[1:], 3, dtype=torch.uint8)
    with torch.no_grad():
        program(crops)  # LeViT fills its cache of attention biases in the first call, which export must not see
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(
        program,
        (crops,),
        part / "model.onnx",
        input_names=["crops"],
        output_names=["probabilities"],
        dynamic_shapes={"crops": {0: batch}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    contents = {
        "spec.json": spec.to_dict(),
        "index_to_name.json": {str(index): label for index, label in enumerate(checkpoint.labels)},
        "golden.json": golden_answers(program, spec),
    }
    for name, content in contents.items():
        (part / name).write_text(json.dumps(content) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, e.g. build/1.0.0")
    args = parser.parse_args()
    try:
        checkpoint = Checkpoint.load(args.checkpoint)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"exporting {args.checkpoint} ...", flush=True)
    export(checkpoint, args.out)
    model, count = checkpoint.params["model"], len(checkpoint.labels)
    print(f"{args.out}: {model} with {count} classes. Next: make archive VERSION={args.out.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
