// A file -> its picture, upright, and the bytes to send: 1,024 pixels are more than any model here looks at.

const LONGEST = 1024;
const SENT_AS_IT_IS = ["image/jpeg", "image/png", "image/webp"];
const SMALL_BYTES = 2 * 1024 * 1024;
const QUALITY = 0.92;

// {canvas, body}; canvas is null for a picture that this browser cannot draw: the server may read it all the same.
export async function prepare(file) {
  const address = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    if (!image.naturalWidth) return { canvas: null, body: file };
    const canvas = drawn(image);
    const whole = Math.max(image.naturalWidth, image.naturalHeight) <= LONGEST;
    const asItIs = whole && SENT_AS_IT_IS.includes(file.type) && file.size <= SMALL_BYTES;
    return { canvas, body: asItIs ? file : (await encoded(canvas)) ?? file };
  } catch {
    return { canvas: null, body: file };
  } finally {
    URL.revokeObjectURL(address);
  }
}

function drawn(image) {
  const scale = Math.min(1, LONGEST / Math.max(image.naturalWidth, image.naturalHeight));
  const [width, height] = [image.naturalWidth, image.naturalHeight].map((side) => Math.max(1, Math.round(side * scale)));
  let [source, across, down] = [image, image.naturalWidth, image.naturalHeight];
  while (across > 2 * width && down > 2 * height) { // by halves: not every browser looks at all pixels in one step
    [across, down] = [Math.ceil(across / 2), Math.ceil(down / 2)];
    source = scaled(source, across, down);
  }
  return scaled(source, width, height);
}

function scaled(source, width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // behind what is transparent, as the handler has it
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, width, height);
  return canvas;
}

function encoded(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}

// The heat of an explanation over the photo: grey where nothing matters, from violet to yellow where the answer rests.
export function heated(canvas, explanation) {
  const [rows, columns] = explanation.grid_size;
  const most = Math.max(FULL_COLOUR_FROM, ...explanation.grid.flat());
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  const pixels = small.getContext("2d").createImageData(columns, rows);
  explanation.grid.flat().forEach((value, at) => pixels.data.set(colour(Math.max(0, value / most)), 4 * at));
  small.getContext("2d").putImageData(pixels, 0, 0);

  const result = document.createElement("canvas");
  [result.width, result.height] = [canvas.width, canvas.height];
  const context = result.getContext("2d");
  context.drawImage(canvas, 0, 0);
  grey(context, canvas.width, canvas.height);
  const { left, top, right, bottom } = explanation.covers;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height);
  return result;
}

const FULL_COLOUR_FROM = 0.002; // as handler/explain.py has it: a fall of the probability by less is pale
const VIOLET = [70, 20, 110], YELLOW = [253, 231, 37];

function colour(level) {
  const mixed = VIOLET.map((from, at) => Math.round(from + (YELLOW[at] - from) * level));
  return [...mixed, Math.round(200 * Math.sqrt(level))];
}

function grey(context, width, height) {
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "black";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
}

// Where the heat is greatest: 0 to 8, from the top left to the bottom right of the photo; -1 where it is nowhere.
export function hottest(explanation) {
  const [rows, columns] = explanation.grid_size;
  const flat = explanation.grid.flat();
  const most = Math.max(...flat);
  if (most < FULL_COLOUR_FROM) return -1;
  const at = flat.indexOf(most);
  const { left, top, right, bottom } = explanation.covers;
  const x = left + ((at % columns) + 0.5) / columns * (right - left);
  const y = top + (Math.floor(at / columns) + 0.5) / rows * (bottom - top);
  return 3 * third(y) + third(x);
}

function third(share) {
  return Math.min(2, Math.max(0, Math.floor(3 * share)));
}
