// A bundle of breastseg_deploy in a browser: the model is checked against the manifest, images are never resized and never leave.
import * as ort from "./ort/ort.wasm.min.mjs";

const $ = (id) => document.getElementById(id);
const say = (text, error = false) => {
  $("status").textContent = text;
  $("status").className = error ? "error" : "";
};

async function sha256(bytes) {
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A file of this folder, whole; `told` hears the share that has come.
async function load(name, told = () => {}) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} cannot be read (${answer.status}); copy the package again.`);
  const size = Number(answer.headers.get("Content-Length")) || 0;
  const parts = [];
  let come = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    come += value.length;
    if (size) told(Math.min(1, come / size));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function open() {
  if (!globalThis.isSecureContext) throw new Error("The files cannot be checked here: open this page over https or from localhost.");
  const text = await load("bundle/manifest.json");
  const expected = document.querySelector("meta[name=manifest-sha256]").content;
  if ((await sha256(text)) !== expected) throw new Error("bundle/manifest.json is not the one that this page was made for; package the bundle again.");
  const manifest = JSON.parse(new TextDecoder().decode(text));
  const model = await load("bundle/model.onnx", (share) => ($("progress").value = 0.9 * share));
  if ((await sha256(model)) !== manifest.files["model.onnx"].sha256) throw new Error("bundle/model.onnx was altered; copy the package again.");
  say("Preparing the model");
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.proxy = true; // computes in a worker, so that the page stays alive
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return { manifest, session, height: manifest.frame.height_px, width: manifest.frame.width_px };
}

// rgb: Uint8Array of height * width * 3. Gives the probability, and the mask of 0 and 1.
async function segment(bundle, rgb) {
  const frames = new ort.Tensor("uint8", rgb.slice(), [1, bundle.height, bundle.width, 3]);
  const started = performance.now();
  const probability = (await bundle.session.run({ frames })).probability.data; // the worker keeps the copy
  const seconds = (performance.now() - started) / 1000;
  const mask = new Uint8Array(probability.length);
  for (let i = 0; i < mask.length; i++) {
    if (!(probability[i] >= -1e-6 && probability[i] <= 1 + 1e-6)) throw new Error("The engine gave a value that is no probability; do not use it.");
    mask[i] = probability[i] >= bundle.manifest.threshold ? 1 : 0;
  }
  return { probability, mask, seconds };
}

// Connected components with 8 neighbours: the number of each pixel's cell, and how many there are.
function components(mask, height, width) {
  const labels = new Int32Array(mask.length);
  const stack = new Int32Array(mask.length);
  let count = 0;
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || labels[start]) continue;
    labels[start] = ++count;
    let top = 0;
    for (stack[top++] = start; top; ) {
      const at = stack[--top], y = Math.floor(at / width), x = at % width;
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++)
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
          const other = v * width + u;
          if (mask[other] && !labels[other]) (labels[other] = count), (stack[top++] = other);
        }
    }
  }
  return { labels, count };
}

// An image file as RGBA pixels, exactly as stored; what a browser would change without a word is refused.
async function decode(file) {
  const head = new DataView(await file.slice(0, 32).arrayBuffer());
  const isPng = head.byteLength > 24 && head.getUint32(0) === 0x89504e47;
  const isJpeg = head.byteLength > 2 && head.getUint16(0) === 0xffd8;
  if (!isPng && !isJpeg) throw new Error(`${file.name} must be a PNG or JPEG; convert it first.`);
  if (isPng && head.getUint8(24) === 16) throw new Error(`${file.name} has 16 bits, and a browser would cut them to 8; convert it with the range of your scanner first.`);
  const picture = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(() => {
    throw new Error(`${file.name} is damaged or no image.`);
  });
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const image = context.getImageData(0, 0, picture.width, picture.height);
  for (let i = 3; i < image.data.length; i += 4) if (image.data[i] !== 255) throw new Error(`${file.name} has transparent pixels; remove the alpha channel.`);
  return image;
}

function crop(image, top, left, height, width) {
  const rgb = new Uint8Array(height * width * 3);
  for (let y = 0, to = 0; y < height; y++)
    for (let x = 0, from = ((top + y) * image.width + left) * 4; x < width; x++, from += 4)
      for (let c = 0; c < 3; c++) rgb[to++] = image.data[from + c];
  return rgb;
}

function paint(canvas, height, width, colour) {
  canvas.height = height;
  canvas.width = width;
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const [r, g, b] = colour(i);
    image.data.set([r, g, b, 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function show({ height, width }, rgb, { mask, seconds }) {
  const { labels, count } = components(mask, height, width);
  const isEdge = (i) => {
    const y = Math.floor(i / width), x = i % width;
    return mask[i] && (!y || !x || y === height - 1 || x === width - 1 || !mask[i - 1] || !mask[i + 1] || !mask[i - width] || !mask[i + width]);
  };
  paint($("frame"), height, width, (i) => (isEdge(i) ? [0, 255, 80] : [rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]]));
  paint($("mask"), height, width, (i) => {
    const turn = (labels[i] * 137.5 * Math.PI) / 180; // neighbours in number are far apart in colour
    return labels[i] ? [150 + 100 * Math.sin(turn), 150 + 100 * Math.sin(turn + 2.1), 150 + 100 * Math.sin(turn + 4.2)] : [0, 0, 0];
  });
  const saved = new OffscreenCanvas(width, height);
  paint(saved, height, width, (i) => [255 * mask[i], 255 * mask[i], 255 * mask[i]]);
  saved.convertToBlob().then((blob) => {
    URL.revokeObjectURL($("save").href);
    $("save").href = URL.createObjectURL(blob);
  });
  $("cells").textContent = count;
  $("share").textContent = `${((100 * mask.reduce((sum, one) => sum + one, 0)) / mask.length).toFixed(1)} %`;
  $("seconds").textContent = `${seconds.toFixed(1)} s`;
  for (const id of ["figures", "frame-figure", "mask-figure"]) $(id).hidden = false;
}

async function segmentAndShow(bundle, rgb, what) {
  say(`Segmenting ${what}`);
  show(bundle, rgb, await segment(bundle, rgb));
  say(`Done: ${what}`);
}

// The whole image with the frame that is segmented; a click moves it.
function showWhole(bundle, image, name) {
  const { height, width } = bundle;
  if (image.height < height || image.width < width)
    throw new Error(`${name} has ${image.width} x ${image.height} px and this model takes frames of ${width} x ${height}; nothing is resized.`);
  const isLarger = image.height > height || image.width > width;
  $("whole-figure").hidden = !isLarger;
  const at = async (top, left) => {
    top = Math.round(Math.max(0, Math.min(image.height - height, top)));
    left = Math.round(Math.max(0, Math.min(image.width - width, left)));
    $("whole").height = image.height;
    $("whole").width = image.width;
    const context = $("whole").getContext("2d");
    context.putImageData(image, 0, 0);
    context.lineWidth = Math.max(2, image.width / 300);
    context.strokeStyle = "#0f5";
    context.strokeRect(left, top, width, height);
    const part = isLarger ? `${name}, ${width} x ${height} px from (${left}, ${top}); nothing is resized` : name;
    await segmentAndShow(bundle, crop(image, top, left, height, width), part);
  };
  $("whole").onclick = (event) => {
    const scale = image.width / $("whole").clientWidth;
    busy(() => at(event.offsetY * scale - height / 2, event.offsetX * scale - width / 2));
  };
  return at((image.height - height) / 2, (image.width - width) / 2);
}

async function golden(bundle, entry) {
  const frame = await load(`bundle/${entry.name}.frame.u8`);
  const stored = await load(`bundle/${entry.name}.probability.f32`);
  if ((await sha256(frame)) !== entry.frame_sha256 || (await sha256(stored)) !== entry.probability_sha256)
    throw new Error(`bundle/${entry.name} was altered; copy the package again.`);
  return { frame, probability: new Float32Array(stored.buffer) };
}

// Runs every golden, and holds the masks to the limit of the manifest.
async function check(bundle) {
  const { goldens } = JSON.parse(new TextDecoder().decode(await load("bundle/goldens.json")));
  const limit = bundle.manifest.artefacts.find((one) => one.role === "portable").limits.worst_dice;
  const results = [];
  for (const entry of goldens) {
    say(`Checking ${entry.name}`);
    const { frame, probability } = await golden(bundle, entry);
    const found = await segment(bundle, frame);
    let both = 0, sum = 0, error = 0, flipped = 0;
    for (let i = 0; i < probability.length; i++) {
      const expected = probability[i] >= bundle.manifest.threshold ? 1 : 0;
      both += expected & found.mask[i];
      sum += expected + found.mask[i];
      flipped += expected ^ found.mask[i];
      error = Math.max(error, Math.abs(probability[i] - found.probability[i]));
    }
    results.push({ name: entry.name, dice: sum ? (2 * both) / sum : 1, limit, error, flipped, seconds: found.seconds });
  }
  const rows = results.map((one) => {
    const row = document.createElement("tr");
    for (const text of [one.name, one.dice.toFixed(6), one.limit, one.error.toExponential(1)]) row.insertCell().textContent = text;
    return row;
  });
  $("goldens").tBodies[0].replaceChildren(...rows);
  $("goldens").hidden = false;
  const passed = results.every((one) => one.dice >= one.limit);
  say(passed ? "This browser reproduces the bundle's goldens." : "This browser does not reproduce the bundle's goldens; do not use it.", !passed);
  return { passed, results };
}

let working = false;
async function busy(work) {
  if (working) return undefined;
  working = true;
  for (const id of ["example", "check", "file"]) $(id).disabled = true;
  try {
    return await work();
  } catch (error) {
    say(error.message, true);
    return undefined;
  } finally {
    working = false;
    for (const id of ["example", "check", "file"]) $(id).disabled = false;
  }
}

busy(async () => {
  say("Loading the model");
  const bundle = await open();
  $("progress").hidden = true;
  const { manifest } = bundle;
  $("about").textContent = `${manifest.name}, ${manifest.encoder}. ${manifest.intended_use} Licence: ${manifest.licence}`;
  const take = (file) => file && busy(async () => showWhole(bundle, await decode(file), file.name));
  $("file").onchange = (event) => take(event.target.files[0]);
  $("example").onclick = () =>
    busy(async () => {
      const { goldens } = JSON.parse(new TextDecoder().decode(await load("bundle/goldens.json")));
      $("whole-figure").hidden = true;
      await segmentAndShow(bundle, (await golden(bundle, goldens[0])).frame, "an example");
    });
  $("check").onclick = () => busy(() => check(bundle));
  const drop = $("drop");
  document.ondragover = (event) => (event.preventDefault(), drop.classList.add("over"));
  document.ondragleave = () => drop.classList.remove("over");
  document.ondrop = (event) => (event.preventDefault(), drop.classList.remove("over"), take(event.dataTransfer.files[0]));
  globalThis.breastseg = { check: () => busy(() => check(bundle)) };
  say(`Ready: frames of ${bundle.width} x ${bundle.height} px`);
});
