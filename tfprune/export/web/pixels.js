// A picture file to the bytes that the model was trained on, as tfprune.data.decoding makes them:
// upright by EXIF, transparency white, gray by luminance, stretched to [H, W] by antialiased
// bilinear interpolation, step by step as Pillow does it. Exact but for what decoding a large JPEG
// to a fraction of its size leaves, which is an average of pixels here.

// Where a browser may have no larger canvas; pictures beyond are made smaller by it at first.
const MOST_PIXELS = 4096;
const BITS = 22;  // of the fixed point of Pillow's weights

/** Uint8Array [height · width · channels] of a Blob; channels: 1 or 3. */
export async function bytesOf(blob, [height, width, channels]) {
  const bitmap = await createImageBitmap(blob, {colorSpaceConversion: 'none'});
  const shrink = Math.min(1, MOST_PIXELS / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(bitmap.width * shrink));
  canvas.height = Math.max(1, Math.round(bitmap.height * shrink));
  const context = canvas.getContext('2d', {alpha: false, willReadFrequently: true});
  context.fillStyle = 'white';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
  let [image, h, w] = [withChannels(data, channels), canvas.height, canvas.width];
  const fraction = blob.type === 'image/jpeg' ? fractionOf(h, w, Math.max(height, width)) : 1;
  if (h !== height || w !== width) {
    [image, h, w] = averaged(image, h, w, channels, fraction);
  }
  return resized(image, h, w, channels, height, width);
}

/** How many pixels a side become one as Pillow decodes a JPEG: at least twice the size stays. */
function fractionOf(height, width, side) {
  const most = Math.trunc(Math.min(height, width) / (2 * side));
  return [8, 4, 2, 1].find(fraction => fraction <= most) ?? 1;
}

/** The means of squares: [image, height, width]. */
function averaged(image, fromHeight, fromWidth, channels, side) {
  const height = Math.ceil(fromHeight / side), width = Math.ceil(fromWidth / side);
  const sums = new Float64Array(height * width * channels);
  const counts = new Float64Array(height * width);
  for (let y = 0, at = 0; y < fromHeight; y++) {
    for (let x = 0; x < fromWidth; x++) {
      const place = Math.trunc(y / side) * width + Math.trunc(x / side);
      counts[place]++;
      for (let c = 0; c < channels; c++, at++) {
        sums[place * channels + c] += image[at];
      }
    }
  }
  return [Uint8Array.from(sums, (sum, i) => Math.round(sum / counts[Math.trunc(i / channels)])),
          height, width];
}

/** RGBA to RGB, or to gray in Pillow's fixed point. */
function withChannels(rgba, channels) {
  const count = rgba.length / 4, found = new Uint8Array(count * channels);
  for (let i = 0; i < count; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) {
      found[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    } else {
      found.set([r, g, b], 3 * i);
    }
  }
  return found;
}

/** [H, W, C] to [height, width, C]: along the rows, rounded to bytes, then along the columns. */
export function resized(image, fromHeight, fromWidth, channels, height, width) {
  const rows = along(image, fromHeight, fromWidth, width, channels);
  return along(rows, 1, fromHeight, height, width * channels);
}

/** [outer, from, inner] to [outer, to, inner]. */
function along(image, outer, from, to, inner) {
  if (from === to) {
    return image;
  }
  const found = new Uint8Array(outer * to * inner), weighted = weights(from, to);
  for (let o = 0, place = 0; o < outer; o++) {
    for (const {first, weight} of weighted) {
      for (let i = 0; i < inner; i++, place++) {
        let sum = 2 ** (BITS - 1), at = (o * from + first) * inner + i;
        for (let k = 0; k < weight.length; k++, at += inner) {
          sum += image[at] * weight[k];
        }
        found[place] = Math.min(255, sum / 2 ** BITS);
      }
    }
  }
  return found;
}

/** For each of `to` places the first of `from` and the weights from there on. */
function weights(from, to) {
  const scale = from / to, support = Math.max(scale, 1);
  return Array.from({length: to}, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(from, Math.trunc(center + support + 0.5));
    const triangle = Array.from({length: last - first}, (_, i) =>
      Math.max(0, 1 - Math.abs((i + first - center + 0.5) / support)));
    const sum = triangle.reduce((a, b) => a + b);
    return {first, weight: triangle.map(w => Math.trunc(0.5 + w / sum * 2 ** BITS))};
  });
}
