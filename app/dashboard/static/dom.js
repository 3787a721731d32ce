// Creates all elements. Text is only ever a text node, so no title can become markup.

const SVG = "http://www.w3.org/2000/svg";

export const find = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function drawing(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

export function say(error) {
  const message = find("message");
  message.textContent = error ? error.message : "";
  message.hidden = !error;
}

/** Runs a task and shows its error, if there is one. */
export async function trying(task) {
  try {
    return await task();
  } catch (error) {
    say(error);
    if (!error.isProblem) console.error(error);
    return undefined;
  }
}

export const number = (value, digits = 0) =>
  value == null ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function ago(time) {
  const seconds = Math.max(0, (Date.now() - new Date(time)) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(time).toLocaleDateString();
}

/** A loss in one line: its formula and its parameters. */
export function lossText(loss) {
  const numbers = Object.entries(loss.parameters).map(([name, value]) => `${name} = ${value}`);
  const link = loss.link === "identity" ? [] : [`link ${loss.link}`];
  return [loss.error, ...numbers, ...link].join(", ");
}
