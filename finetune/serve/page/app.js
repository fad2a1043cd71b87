// The page: takes pictures from a person, asks POST /predict for each, and shows the answers.
// Everything from outside becomes text by textContent; pictures are drawn on canvases, so no URL is ever loaded.

const AT_ONCE = 4; // requests under way
const SHOWN = 5; // bars of a picture
const element = (id) => document.getElementById(id);
const waiting = [];
let running = 0, asked = 0, answered = 0, token = "", round = 0;

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const percent = (share) => {
  const value = 100 * share;
  return value > 99.9 && value < 100 ? "> 99.9 %" : value < 0.1 && value > 0 ? "< 0.1 %" : `${value.toFixed(1)} %`;
};

// --- asking ----------------------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  for (let attempt = 0; ; attempt++) {
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.status === 401) {
      await askToken(Boolean(token));
    } else if (response.status === 503 && attempt < 10) {
      await new Promise((go) => setTimeout(go, 1000 * (Number(response.headers.get("retry-after")) || 1)));
    } else {
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.error || `the server says ${response.status}`);
      return answer;
    }
  }
}

let asking = null; // several requests may be refused at once: one dialog for all
function askToken(wrong) {
  asking ??= new Promise((go) => {
    element("ask-wrong").hidden = !wrong;
    element("token").value = "";
    element("ask").addEventListener("close", () => {
      token = element("token").value.trim();
      asking = null;
      go();
    }, { once: true });
    element("ask").showModal();
  });
  return asking;
}

// --- one picture -----------------------------------------------------------------------------------------------------

async function draw(place, file, name) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, 640 / bitmap.width, 352 / bitmap.height);
    const canvas = make("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", name);
    place.replaceChildren(canvas);
  } catch {
    place.replaceChildren(make("span", "", "no preview"));
  }
}

function scores(top) {
  const list = make("ol", "scores");
  for (const { label, confidence } of top) {
    const item = make("li"), line = make("div", "score"), track = make("div", "track"), fill = make("div", "fill");
    line.append(make("span", "", label), make("span", "", percent(confidence)));
    fill.style.width = `${100 * confidence}%`;
    track.append(fill);
    item.append(line, track);
    list.append(item);
  }
  return list;
}

async function near(neighbours) {
  const list = make("ul", "near");
  list.setAttribute("aria-label", "Nearest images of the store");
  for (const { label, distance, image } of neighbours) {
    const item = make("li", "", label ?? "?");
    item.title = `distance ${distance.toFixed(3)}`;
    list.append(item);
    try {
      const headers = token ? { authorization: `Bearer ${token}` } : {};
      const response = await fetch(image, { headers });
      const place = make("div");
      if (response.ok) await draw(place, await response.blob(), label ?? "?");
      item.prepend(place);
    } catch { /* without its picture, a neighbour still has its name */ }
  }
  return list;
}

function show(card, row) {
  const said = card.querySelector(".said");
  if (row.error) {
    said.replaceChildren(make("p", "error", `Cannot be read: ${row.error}`));
    return `${row.name}: cannot be read`;
  }
  const label = row.abstained ? make("p", "label unsure", "Not sure") : make("p", "label", row.label);
  said.replaceChildren(label, scores(row.top));
  if (row.neighbours?.length) near(row.neighbours).then((list) => said.append(make("p", "small", "Nearest images of the store"), list));
  return `${row.name}: ${row.abstained ? "not sure, perhaps " + row.top[0].label : row.label}, ${percent(row.confidence)}`;
}

async function answer({ file, name, card, mine }) {
  let told;
  try {
    const form = new FormData();
    form.append("files", file, name);
    const found = await ask(`predict?topk=${SHOWN}`, { method: "POST", body: form });
    told = show(card, { ...found.predictions[0], name });
  } catch (error) {
    told = show(card, { name, error: error instanceof TypeError ? "the server does not answer" : error.message });
  }
  card.removeAttribute("aria-busy");
  if (mine !== round) return; // cleared meanwhile
  answered++;
  element("progress").textContent = `${answered} of ${asked}`;
  element("live").textContent = asked === 1 ? told : answered === asked ? `All ${asked} answered. ${told}` : told;
}

async function work() {
  if (running >= AT_ONCE || !waiting.length) return;
  running++;
  try {
    const job = waiting.shift();
    await Promise.all([draw(job.card.querySelector(".picture"), job.file, job.name), answer(job)]);
  } finally {
    running--;
    work();
  }
}

function add(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
  if (!pictures.length) {
    element("live").textContent = "No image among these";
    return;
  }
  element("results").hidden = false;
  for (const file of pictures) {
    const name = file.name || "pasted image";
    const card = make("li"), text = make("div", "text"), said = make("div", "said");
    card.setAttribute("aria-busy", "true");
    said.append(make("p", "", "…"));
    text.append(make("h3", "name", name), said);
    card.append(make("div", "picture"), text);
    element("grid").append(card);
    asked++;
    waiting.push({ file, name, card, mine: round });
  }
  element("progress").textContent = `${answered} of ${asked}`;
  for (let i = 0; i < AT_ONCE; i++) work();
}

function clear() {
  waiting.length = 0;
  asked = answered = 0;
  round++;
  element("grid").replaceChildren();
  element("results").hidden = true;
  element("live").textContent = "Cleared";
  element("choose").focus();
}

// --- what a person does ----------------------------------------------------------------------------------------------

for (const [button, input] of [["choose", "files"], ["photograph", "camera"]]) {
  element(button).addEventListener("click", () => element(input).click());
  element(input).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
}
element("photograph").hidden = !navigator.maxTouchPoints; // elsewhere the button would only choose files, too
element("clear").addEventListener("click", clear);
element("ask").addEventListener("cancel", (event) => event.preventDefault());
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) add(event.clipboardData.files);
});
const over = (on) => element("drop").classList.toggle("over", on);
document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
document.addEventListener("drop", (event) => {
  event.preventDefault(); // else the browser leaves the page for the file
  over(false);
  add(event.dataTransfer.files);
});

// --- the model -------------------------------------------------------------------------------------------------------

function interval(value, pair) {
  return pair ? `${percent(value)} (95 % interval ${percent(pair[0])} to ${percent(pair[1])})` : percent(value);
}

try {
  const model = await ask("model");
  const some = model.classes.slice(0, 12).join(", ");
  const more = model.classes.length > 12 ? ` and ${model.classes.length - 12} more` : "";
  element("classes").textContent = `This model tells apart: ${some}${more}.`;
  const facts = [["Classes", String(model.classes.length)], ["Network", model.architecture]];
  if (model.metrics?.accuracy != null) {
    facts.push(["Accuracy", `${interval(model.metrics.accuracy, model.metrics.accuracy_ci95)}, on ${model.metrics.n} images`]);
  }
  if (model.threshold != null) facts.push(["“Not sure” below", percent(model.threshold)]);
  facts.push(["Weights", `sha256 ${model.weights_sha256.slice(0, 16)}…`]);
  for (const [term, value] of facts) element("facts").append(make("dt", "", term), make("dd", "", value));
  element("about").hidden = false;
} catch (error) {
  element("classes").textContent = `The server does not say what it knows: ${error.message}`;
}
