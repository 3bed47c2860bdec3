// Reads the text that /metrics shows, as far as the console needs it.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { "\\n": "\n", "\\\\": "\\", '\\"': '"' };

/** All series by the name of their metric. */
export class Metrics {
  #series = new Map();

  constructor(text) {
    for (const line of text.split("\n")) {
      const found = line.startsWith("#") ? null : SAMPLE.exec(line);
      if (!found) continue;
      const [, name, labels, value] = found;
      if (!this.#series.has(name)) this.#series.set(name, []);
      this.#series.get(name).push({ labels: parse(labels), value: number(value) });
    }
  }

  /** The series of a metric that have these labels. */
  of(name, labels = {}) {
    const wanted = Object.entries(labels);
    return (this.#series.get(name) ?? []).filter((series) => wanted.every(([label, value]) => series.labels[label] === value));
  }

  /** Their sum; `NaN` where there is none, so that nobody takes what is not known for nothing. */
  sum(name, labels) {
    const series = this.of(name, labels);
    return series.length > 0 ? series.reduce((sum, { value }) => sum + value, 0) : NaN;
  }

  /** Their sum, nothing where there is none: counters appear with what they count first. */
  total(name, labels) {
    return this.of(name, labels).reduce((sum, { value }) => sum + value, 0);
  }

  /** A histogram over all its series: the counts up to each bound. */
  buckets(name, labels) {
    const buckets = new Map();
    for (const { labels: own, value } of this.of(`${name}_bucket`, labels)) {
      const bound = number(own.le);
      buckets.set(bound, (buckets.get(bound) ?? 0) + value);
    }
    return buckets;
  }
}

/** What a counter grew by. A gateway that was started anew began at nothing. */
export const growth = (before, now) => (now >= before ? now - before : now);

/** What each bucket grew by. */
export function between(before, now) {
  const grown = new Map();
  for (const [bound, count] of now) grown.set(bound, growth(before.get(bound) ?? 0, count));
  return grown;
}

/** The value below which the share `q` of the observations lies, as Prometheus reckons it; `NaN` without any. */
export function quantile(q, buckets) {
  const bounds = [...buckets.keys()].sort((a, b) => a - b);
  const all = buckets.get(Infinity) ?? 0;
  if (!(all > 0)) return NaN;
  const rank = q * all;
  let [below, counted] = [0, 0];
  for (const bound of bounds) {
    const upTo = buckets.get(bound);
    if (upTo >= rank) return bound === Infinity ? below : below + ((bound - below) * (rank - counted)) / Math.max(upTo - counted, 1e-9);
    [below, counted] = [bound, upTo];
  }
  return below;
}

function parse(text = "") {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) {
    labels[name] = value.includes("\\") ? value.replace(/\\[n\\"]/g, (escape) => ESCAPES[escape]) : value;
  }
  return labels;
}

const number = (text) => (text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text));
