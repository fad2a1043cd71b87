// Label pictures with a classifier.onnx of `finetune export`, in Node: no Python, no preprocessing of one's own.
//
//     npm install onnxruntime-node sharp
//     node classify.mjs classifier.onnx photo.jpg more/*.jpg       (--json: one object, all probabilities)
//
// The model takes a whole picture, uint8 [height, width, 3], upright RGB, and resizes it itself, so all that is left to
// do here is to decode. Its classes are in its metadata; as onnxruntime-node does not hand that out, it is read from the
// file: metadata_props is field 14 of ONNX's ModelProto, each entry a key and a value (onnx/onnx.proto).

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import sharp from "sharp";

function* fields(bytes, at = 0) {
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint(), kind = tag & 7;
    const length = kind === 2 ? varint() : kind === 5 ? 4 : kind === 1 ? 8 : (varint(), 0);
    yield [Math.floor(tag / 8), bytes.subarray(at, (at += length))];
  }
}

export function metadata(model) {
  const found = {};
  for (const [field, entry] of fields(model)) {
    if (field !== 14) continue;
    const [key, value] = [...fields(entry)].map(([, bytes]) => bytes.toString("utf8"));
    found[key] = value;
  }
  return found;
}

export async function decode(path) {
  const { data, info } = await sharp(path).rotate().flatten({ background: "white" }).toColourspace("srgb").raw()
    .toBuffer({ resolveWithObject: true }); // rotate() without an angle: upright, as EXIF says
  if (info.channels === 3) return new ort.Tensor("uint8", new Uint8Array(data), [info.height, info.width, 3]);
  const rgb = new Uint8Array(info.width * info.height * 3).map((_, i) => data[Math.floor(i / 3) * info.channels]);
  return new ort.Tensor("uint8", rgb, [info.height, info.width, 3]);
}

const [file, ...rest] = process.argv.slice(2), asJson = rest.includes("--json");
const session = await ort.InferenceSession.create(file);
const classes = JSON.parse(metadata(readFileSync(file)).classes), answers = {};
for (const path of rest.filter((name) => name !== "--json")) {
  const { probabilities } = await session.run({ image: await decode(path) });
  answers[path] = Object.fromEntries(classes.map((name, i) => [name, probabilities.data[i]]));
  const best = classes[probabilities.data.indexOf(Math.max(...probabilities.data))];
  if (!asJson) console.log(`${path}  ${best} ${answers[path][best].toFixed(4)}`);
}
if (asJson) console.log(JSON.stringify(answers));
