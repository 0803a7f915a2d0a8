// The page: what page.json lists is loaded once; a picture that is chosen, dropped or pasted is
// shown to every model, and the time of each is taken in turns.
import {bytesOf} from './pixels.js';

const TYPES = {float32: Float32Array, uint8: Uint8Array, int8: Int8Array};
const SHOWN = 5;                      // classes
const ROUNDS = 5, ROUND_MS = 40;      // of timing: the least time of a model in a round
const element = id => document.getElementById(id);
const digits = (value, count) => value.toLocaleString('en', {maximumSignificantDigits: count});
let latest = 0;                       // the picture that was given last

class Model {
  constructor(described, compiled, shape) {
    Object.assign(this, described);
    this.compiled = compiled;
    this.shape = [1, ...shape];
  }

  /** The input tensor of the bytes [H, W, C] of a picture. */
  input(bytes, {Tensor}) {
    const channels = this.shape[3], tables = this.values;
    return new Tensor(TYPES[this.dtype].from(
        bytes, (byte, place) => tables[tables.length > 1 ? place % channels : 0][byte]),
    this.shape);
  }

  /** Probabilities of the classes. */
  async run(input) {
    const [output] = await this.compiled.run([input]);
    const {scale, zero_point: zero} = this.output;
    const scores = Array.from(output.toTypedArray(), value => scale * (value - zero));
    output.delete();
    if (this.probabilities) {
      return scores;
    }
    const most = Math.max(...scores), weights = scores.map(score => Math.exp(score - most));
    const sum = weights.reduce((a, b) => a + b);
    return weights.map(weight => weight / sum);
  }

  /** Milliseconds of one picture, as often as fits into `least` of them. */
  async time(input, least) {
    const begun = performance.now();
    let count = 0, taken = 0;
    do {
      (await this.compiled.run([input]))[0].delete();
      count++;
      taken = performance.now() - begun;
    } while (taken < least);
    return taken / count;
  }
}

async function load() {
  const found = await (await fetch('page.json')).json();
  element('title').textContent = document.title = found.title;
  let litert;
  try {
    litert = await import('@litertjs/core');
    await litert.loadLiteRt('./node_modules/@litertjs/core/wasm/');
  } catch (error) {
    throw new Error(`LiteRT.js is not in this folder (${error.message}): in it, run  ` +
                    `npm install --prefix . ${found.runtime}  and load this page again`);
  }
  const models = [];
  for (const described of found.models) {
    const compiled = await litert.loadAndCompile(described.file, {accelerator: 'wasm'});
    models.push(new Model(described, compiled, found.shape));
  }
  return {...found, litert, models};
}

async function classify(page, blob) {
  const mine = ++latest, isLatest = () => mine === latest;
  say('Reading …');
  const bytes = await bytesOf(blob, page.shape);
  const inputs = page.models.map(model => model.input(bytes, page.litert));
  try {
    const answers = [];
    for (const [i, model] of page.models.entries()) {
      answers.push(await model.run(inputs[i]));
    }
    if (isLatest()) {
      showPicture(blob, bytes, page.shape);
      showAnswers(page, answers);
      say('Measuring …');
      await measure(page, inputs, isLatest);
      if (isLatest()) {
        say('');
      }
    }
  } finally {
    inputs.forEach(input => input.delete());
  }
}

async function measure({models}, inputs, isLatest) {
  const times = models.map(() => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, model] of models.entries()) {
      if (!isLatest()) {
        return;
      }
      times[i].push(await model.time(inputs[i], ROUND_MS));
    }
    await new Promise(resolve => setTimeout(resolve));  // the page stays alive
  }
  times.forEach((found, i) => {
    const median = found.sort((a, b) => a - b)[ROUNDS >> 1];
    element('models').rows[i].cells[2].textContent = digits(median, 2);
  });
  element('models').dataset.measured = 'yes';
}

function showPicture(blob, bytes, [height, width, channels]) {
  const picture = element('picture'), seen = element('seen');
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(blob);
  element('name').textContent = blob.name ?? 'the picture';
  [seen.width, seen.height] = [width, height];
  const rgba = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      rgba.data[4 * i + c] = bytes[channels * i + (channels === 3 ? c : 0)];
    }
    rgba.data[4 * i + 3] = 255;
  }
  seen.getContext('2d').putImageData(rgba, 0, 0);
  element('size').textContent = `what the model sees: ${width} × ${height}` +
      (channels === 1 ? ', gray' : '');
}

function showAnswers({models, labels}, answers) {
  const best = scores => scores.indexOf(Math.max(...scores));
  element('models').replaceChildren(...models.map((model, i) => {
    const row = made('tr', `m${i}`), top = best(answers[i]);
    row.dataset.class = top;
    row.append(made('td', '', model.title), made('td', '', digits(model.bytes / 1000, 3)),
               made('td', '', '…'), made('td', '', labels[top]));
    return row;
  }));
  delete element('models').dataset.measured;
  const last = answers.at(-1);  // the smallest file orders the classes
  const order = [...last.keys()].sort((a, b) => last[b] - last[a]).slice(0, SHOWN);
  const shown = [...new Set([...order, ...answers.map(best)])];
  element('classes').replaceChildren(...shown.map(index => {
    const group = made('div', 'class');
    group.append(made('span', '', labels[index]), ...models.map((_, i) => {
      const bar = made('div', `bar m${i}`), track = made('i'), filled = made('b');
      filled.style.width = `${100 * answers[i][index]}%`;
      track.append(filled);
      bar.append(track, made('em', '', `${(100 * answers[i][index]).toFixed(1)}%`));
      return bar;
    }));
    return group;
  }));
  element('timing').textContent = `Milliseconds for one picture: the median of ${ROUNDS} rounds ` +
      'in turns, on one thread of WebAssembly, the way into and out of it included.';
  element('result').hidden = false;
}

function made(tag, name = '', text = '') {
  const found = document.createElement(tag);
  found.className = name;
  found.textContent = text;
  return found;
}

function say(text, isWrong = false) {
  element('status').textContent = text;
  element('status').className = isWrong ? 'wrong' : '';
}

function listen(give) {
  const drop = element('drop'), file = element('file');
  const first = files => [...files].find(({type}) => type.startsWith('image/')) ?? files[0];
  const take = files => files?.length && give(first(files));
  file.addEventListener('change', () => {
    take(file.files);
    file.value = '';
  });
  for (const name of ['dragover', 'dragleave', 'drop']) {
    document.addEventListener(name, event => {
      event.preventDefault();
      drop.classList.toggle('over', name === 'dragover');
    });
  }
  document.addEventListener('drop', event => take(event.dataTransfer.files));
  document.addEventListener('paste', event => take(event.clipboardData.files));
}

const loading = load();
listen(async blob => {
  try {
    await classify(await loading, blob);
  } catch (error) {
    say(error.name === 'InvalidStateError' ? `${blob.name}: no picture that this browser reads` :
        error.message, true);
  }
});
loading.then(() => say(''), error => say(error.message, true));
