// «Plan a training»: a form, Python in the browser, and what the planner answers.
const COLOURS = {weights: "#E69F00", gradients: "#009E73", optimizer: "#F0E442", activations: "#56B4E9"};
const POWERS = Array.from({length: 13}, (_, power) => 2 ** power);
const place = document.getElementById("planner");
const here = new URL(".", import.meta.url);

// name: what stands beside it, its first value, and what may be chosen
const FIELDS = {
  model: {label: "model", value: "ResNet50", from: "models"},
  weights: {label: "billion weights", value: 7, values: [0.1, 0.3, 1, 3, 7, 10, 30, 70, 100, 300, 1000], of: ["model", "GPT"]},
  layers: {label: "layers, all alike", value: 24, of: ["model", "my own numbers"]},
  parameters: {label: "million weights of a layer", value: 50, of: ["model", "my own numbers"]},
  outputs: {label: "million outputs of a layer, an example", value: 4, of: ["model", "my own numbers"]},
  flops: {label: "million FLOPs of a layer, an example, forward", value: 200000, of: ["model", "my own numbers"]},
  batch: {label: "examples in a global batch", value: 256},
  machine: {label: "machine", value: "4 x T4", from: "machines"},
  hosts: {label: "how many of them", value: 1, values: POWERS.slice(0, 8)},
  devices: {label: "devices of a machine", value: 8, of: ["machine", "my own machine"]},
  memory: {label: "GiB on a device", value: 80, values: [16, 24, 40, 80, 141, 192], of: ["machine", "my own machine"]},
  tflops: {label: "TFLOP/s of a device, at most", value: 500, of: ["machine", "my own machine"]},
  inside: {label: "GB/s to a device of the same machine", value: 450, of: ["machine", "my own machine"]},
  between: {label: "GB/s that a machine sends to another", value: 50, values: [1, 3, 12.5, 25, 50, 400], of: ["machine", "my own machine"]},
  examples: {label: "examples of the whole run (may be left out)", value: ""},
  price: {label: "price of all of it an hour (may be left out)", value: ""},
};
// what notebook 05 has a slider for, with its numbers
const SLIDERS = {
  weights: 10, batch: 512, hosts: 8, memory: 80, between: 50,
  fixed: {model: "GPT", machine: "my own machine", devices: 8, tflops: 500, inside: 450},
};

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function control(name, field, options) {
  if (options) {
    const select = element("select", {name}, ...options.map(option => element("option", {}, option)));
    select.value = field.value;
    return [select];
  }
  if (field.values) {
    const shown = element("output", {}, String(field.value));
    const slider = element("input", {
      type: "range", name, min: 0, max: field.values.length - 1, value: field.values.indexOf(field.value)});
    slider.addEventListener("input", () => { shown.value = field.values[slider.value]; });
    return [slider, shown];
  }
  return [element("input", {type: "number", name, value: field.value, min: 0, step: "any"})];
}

function choicesOf(form, fields) {
  const choices = {...(place.dataset.fields === "sliders" ? SLIDERS.fixed : {})};
  for (const [name, field] of Object.entries(fields)) {
    const given = form.elements[name].value;
    choices[name] = field.from ? given : field.values ? field.values[given] : given === "" ? null : Number(given);
  }
  return choices;
}

function bars({bars, room}) {
  const totals = Object.values(bars).map(held => typeof held === "string" ? 0 : Object.values(held).reduce((a, b) => a + b));
  const longest = Math.min(Math.max(...totals, room), 3 * room);
  const rows = Object.entries(bars).map(([kind, held], row) => {
    if (typeof held === "string") {
      return element("tr", {}, element("th", {scope: "row"}, kind), element("td", {className: "cannot"}, held));
    }
    let left = longest;
    const parts = Object.entries(held).map(([what, gib]) => {
      const width = Math.min(gib, left);
      left -= width;
      const part = element("span", {className: "part", title: `${what}: ${gib.toFixed(2)} GiB`});
      part.style.width = `${90 * width / longest}%`;
      part.style.background = COLOURS[what];
      return part;
    });
    const line = element("span", {className: "room"});
    line.style.left = `${90 * room / longest}%`;
    const total = totals[row];
    const words = `${total >= 100 ? Math.round(total).toLocaleString("en") : total.toPrecision(3)} GiB`;
    return element("tr", {}, element("th", {scope: "row"}, kind),
      element("td", {}, element("div", {className: "bar"}, ...parts, line), element("span", {className: "total"}, words)));
  });
  const key = Object.entries(COLOURS).map(([what, colour]) => {
    const square = element("span", {className: "key"});
    square.style.background = colour;
    return element("span", {}, square, ` ${what} `);
  });
  return [
    element("p", {}, `Planned on the fullest device; the line: nine tenths of its memory, ${room.toFixed(1)} GiB`),
    element("table", {className: "plan-bars"}, element("tbody", {}, ...rows)), element("p", {}, ...key)];
}

async function start() {
  const status = element("p", {className: "plan-status"}, "Python is being loaded, 13 MB …");
  place.replaceChildren(status);
  try {
    const {loadPyodide} = await import(new URL("pyodide/pyodide.mjs", here));
    const [python, archive] = await Promise.all([
      loadPyodide(), fetch(new URL("planner.zip", here)).then(answer => answer.arrayBuffer())]);
    python.unpackArchive(archive, "zip");
    const module = python.pyimport("plan");
    const json = python.pyimport("json");
    const known = JSON.parse(python.runPython(
      "import json, plan, course_planner; json.dumps({'models': [*plan.MODELS, 'GPT', 'my own numbers']," +
      " 'machines': [*course_planner.MACHINES, 'my own machine']})"));
    status.remove();
    show(choices => JSON.parse(json.dumps(module.answer(python.toPy(choices)))), known);
  } catch (error) {
    status.textContent = `The planner could not be loaded (${error.message}). In a notebook it runs without a browser: course_planner.`;
  }
}

function show(answer, known) {
  let fields = FIELDS;
  if (place.dataset.fields === "sliders") {
    fields = Object.fromEntries(Object.entries(SLIDERS).filter(([name]) => name !== "fixed").map(
      ([name, value]) => [name, {...FIELDS[name], value, of: null, values: FIELDS[name].values || POWERS}]));
    fields.hosts.label = "machines of eight devices";
  }
  const labels = Object.entries(fields).map(([name, field]) => {
    const label = element("label", {}, element("span", {}, field.label), ...control(name, field, known[field.from]));
    label.dataset.field = name;
    return label;
  });
  const form = element("form", {className: "plan-form"}, ...labels);
  const result = element("div", {className: "plan-result", ariaLive: "polite"});
  place.replaceChildren(form, result);
  const compute = () => {
    try {
      const planned = answer(choicesOf(form, fields));
      const advice = element("pre", {className: "plan-advice"}, planned.advice);
      const weights = element("p", {}, `${planned.weights.toLocaleString("en")} weights`);
      result.replaceChildren(advice, weights, ...bars(planned));
    } catch (error) {
      const lines = error.message.trim().split("\n");
      result.replaceChildren(element("p", {className: "plan-error"}, lines[lines.length - 1]));
    }
  };
  const update = () => {
    for (const label of labels) {
      const of = fields[label.dataset.field].of;
      label.hidden = Boolean(of) && form.elements[of[0]].value !== of[1];
    }
    result.replaceChildren(element("p", {className: "plan-status"}, "computing …"));
    setTimeout(compute, 20);  // after the words are on the screen
  };
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("change", update);
  update();
}

if (place.dataset.fields === "sliders") {
  const button = element("button", {type: "button"}, "Start the planner: it loads 13 MB");
  button.addEventListener("click", start);
  place.replaceChildren(button);
} else {
  start();
}
