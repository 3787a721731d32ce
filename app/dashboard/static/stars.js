// Five stars on a range input: arrow keys, touch and screen readers work as the browser knows them.

import { element, number } from "/dashboard/dom.js";

const KEYBOARD_PAUSE = 500; // ms: holding an arrow key sends one rating, not ten

/** Draws `scale` = {min, max, step}; leftmost means "not rated". Calls onRate(value or null). */
export function stars(scale, value, label, onRate) {
  const step = scale.step ?? (scale.max - scale.min) / (scale.max - scale.min <= 5 ? 9 : 10);
  const none = scale.min - step; // one step below the scale
  const input = element("input", { type: "range", min: none, max: scale.max, step, "aria-label": label });
  const widget = element("span", { class: "stars" }, input);
  let rated = value;
  let pause = 0;

  const show = (shown) => {
    widget.style.setProperty("--fill", `${(100 * ((shown ?? none) - none)) / (scale.max - none)}%`);
    widget.classList.toggle("rated", rated != null);
    input.setAttribute("aria-valuetext", shown == null ? "not rated" : `${number(shown, 1)} of ${scale.max}`);
  };
  const settle = (chosen) => {
    if (chosen === rated) return;
    rated = chosen;
    input.value = chosen ?? none;
    show(chosen);
    onRate(chosen);
  };
  const chosen = () => (Number(input.value) < scale.min - step / 2 ? null : Number(input.value));
  // A click inside a star means that star, not the one whose edge is nearest.
  const pointed = (event) => {
    const box = input.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const steps = Math.ceil((share * (scale.max - none)) / step - 1e-9);
    return steps < 1 ? scale.min : none + steps * step;
  };

  input.value = value ?? none;
  show(value);
  input.addEventListener("pointerdown", (event) => event.preventDefault());
  input.addEventListener("pointermove", (event) => event.pointerType === "mouse" && show(pointed(event)));
  input.addEventListener("pointerleave", () => show(rated));
  input.addEventListener("click", (event) => event.detail > 0 && settle(pointed(event)));
  input.addEventListener("input", () => {
    show(chosen());
    clearTimeout(pause);
    pause = setTimeout(() => settle(chosen()), KEYBOARD_PAUSE);
  });
  return {
    element: widget,
    set(newValue) {
      rated = newValue;
      input.value = newValue ?? none;
      show(newValue);
    },
  };
}
