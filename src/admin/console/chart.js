// Small drawings of what was seen in the last minutes. The newest is at the right; what was not seen is left blank.

import { h, svg } from "./dom.js";

const [WIDTH, HEIGHT] = [300, 100];

/** Draws columns, one on the other: `columns` is a list of lists of `places` numbers, `kinds` names their colours. */
export function columns(place, columns, kinds, places, words, scale) {
  const most = Math.max(1e-9, ...columns.map((parts) => parts.reduce((sum, part) => sum + part, 0)));
  const top = nice(most);
  const width = WIDTH / places;
  const bars = columns.flatMap((parts, index) => {
    const x = (places - columns.length + index) * width;
    let y = HEIGHT;
    return parts.map((part, kind) => {
      const height = (part / top) * HEIGHT;
      y -= height;
      return height > 0 && svg("rect", { class: `bar ${kinds[kind]}`, x: x.toFixed(2), y: y.toFixed(2), width: (width * 0.82).toFixed(2), height: height.toFixed(2) });
    });
  });
  draw(place, [...grid(), ...bars], words, most > 1e-9 && scale(top));
}

/** Draws lines. Each is `[kind, numbers]`; what is no number is a gap. */
export function lines(place, lines, places, words, { filled = false, floor = 0, scale = null } = {}) {
  const known = lines.flatMap(([, numbers]) => numbers.filter(Number.isFinite));
  const top = nice(Math.max(floor, 1e-9, ...known));
  const drawn = lines.flatMap(([kind, numbers]) => {
    const at = (index) => (((places - numbers.length + index) / (places - 1)) * WIDTH).toFixed(2);
    const runs = [];
    numbers.forEach((number, index) => {
      if (!Number.isFinite(number)) return runs.push([]);
      if (runs.length === 0) runs.push([]);
      runs.at(-1).push(`${at(index)},${(HEIGHT - (number / top) * HEIGHT).toFixed(2)}`);
    });
    return runs.filter((run) => run.length > 0).flatMap((run) => {
      const [first, last] = [run[0].split(",")[0], run.at(-1).split(",")[0]];
      // A single point is drawn as a short line.
      const points = run.length > 1 ? run : [run[0], `${(Number(first) + 1.5).toFixed(2)},${run[0].split(",")[1]}`];
      return [
        filled && svg("polygon", { class: `area ${kind}`, points: `${first},${HEIGHT} ${points.join(" ")} ${last},${HEIGHT}` }),
        svg("polyline", { class: `line ${kind}`, points: points.join(" ") }),
      ];
    });
  });
  draw(place, [...(filled ? [] : grid()), ...drawn], words, known.length > 0 && scale?.(top));
}

function draw(place, shapes, words, top) {
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": words }, ...shapes);
  place.replaceChildren(...(top ? [drawing, h("span", { class: "scale", "aria-hidden": "true" }, top)] : [drawing]));
}

const grid = () => [0, 0.5, 1].map((part) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: part * HEIGHT, y2: part * HEIGHT }));

/** The next round number. */
function nice(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 1.5, 2, 3, 5, 7.5, 10].map((step) => step * power).find((step) => step >= number * 0.999) ?? number;
}
