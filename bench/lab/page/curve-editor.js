// A canvas on which a load curve is drawn, by hand or with keys.

import { MOST_POINTS, heightAt, pointsOf, withPoint } from "./curve.js";
import { number } from "./words.js";

const NEAR_PX = 12;
const STROKE_PX = 14; // between the points of a curve that is drawn in one stroke
const STEP = 0.02; // that an arrow key moves a point
const PAD = 8;

/**
 * Edits the curve of a workload, and calls `changed` after each change.
 *
 * `workload` has `points`, `ticks` and `most`; `duration()` says how many seconds the width is.
 */
export class CurveEditor {
  constructor(canvas, spoken, workload, duration, changed) {
    this.canvas = canvas;
    this.spoken = spoken;
    this.workload = workload;
    this.duration = duration;
    this.changed = changed;
    this.chosen = -1;
    this.drag = null;
    const on = (name, listener) => canvas.addEventListener(name, listener.bind(this));
    on("pointerdown", this.pressed);
    on("pointermove", this.moved);
    on("pointerup", this.released);
    on("pointercancel", this.released);
    on("keydown", this.key);
    on("focus", this.draw);
    on("blur", this.draw);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(canvas);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.draw();
    this.scheme.addEventListener("change", this.redraw);
  }

  close() {
    this.observer.disconnect();
    this.scheme.removeEventListener("change", this.redraw);
  }

  get points() {
    return this.workload.points;
  }

  /** Sets the points; rates that were given as numbers become points first, to be moved. */
  set(points, chosen) {
    this.workload.points = points;
    this.workload.ticks = null;
    this.chosen = chosen;
    this.draw();
    this.say();
    this.changed();
  }

  begin() {
    if (this.workload.ticks) {
      this.workload.points = pointsOf(this.workload.ticks, this.workload.most);
      this.workload.ticks = null;
    }
  }

  pressed(event) {
    if (event.button !== 0) return;
    this.begin();
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.place(event);
    const hit = this.near(event);
    if (hit >= 0) {
      this.drag = { kind: "point" };
      this.set(this.points, hit);
    } else {
      this.drag = { kind: "stroke", x: at.x };
      this.add(at);
    }
  }

  moved(event) {
    if (!this.drag) return;
    const at = this.place(event);
    if (this.drag.kind === "point") this.move(at.x, at.y);
    else this.stroke(at);
  }

  released() {
    this.drag = null;
  }

  /** Goes on with a stroke: what was there between its last point and this one is drawn over. */
  stroke(at) {
    const { width } = this.size();
    if (Math.abs(at.x - this.drag.x) * width < STROKE_PX) return;
    const [from, to] = [Math.min(at.x, this.drag.x), Math.max(at.x, this.drag.x)];
    const kept = this.points.filter((p) => p.x < from || p.x > to || p.x === this.drag.x);
    this.workload.points = kept;
    this.drag.x = at.x;
    this.add(at);
  }

  add(at) {
    const points = withPoint(this.points, at);
    if (points === this.points) {
      this.spoken.textContent = `A curve has at most ${MOST_POINTS} points.`;
      return;
    }
    this.set(points, points.indexOf(at));
  }

  /** Moves the chosen point, as far as its neighbours let it. */
  move(x, y) {
    const [left, right] = [this.points[this.chosen - 1], this.points[this.chosen + 1]];
    const point = {
      x: Math.min(right ? right.x - 0.001 : 1, Math.max(left ? left.x + 0.001 : 0, x)),
      y: Math.min(1, Math.max(0, y)),
    };
    this.set(this.points.with(this.chosen, point), this.chosen);
  }

  key(event) {
    const keys = {
      Enter: () => this.addByKey(),
      Delete: () => this.removeChosen(),
      Backspace: () => this.removeChosen(),
      PageUp: () => this.choose(this.chosen + 1),
      PageDown: () => this.choose(this.chosen - 1),
      ArrowLeft: () => this.nudge(-STEP, 0),
      ArrowRight: () => this.nudge(STEP, 0),
      ArrowUp: () => this.nudge(0, STEP),
      ArrowDown: () => this.nudge(0, -STEP),
    };
    if (!keys[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.begin();
    keys[event.key]();
  }

  /** Adds a point in the widest gap to the right of the chosen one, on the curve. */
  addByKey() {
    const bounds = [0, ...this.points.map((p) => p.x), 1];
    let widest = 0;
    bounds.forEach((x, i) => {
      if (i + 1 < bounds.length && bounds[i + 1] - x > bounds[widest + 1] - bounds[widest]) widest = i;
    });
    const x = (bounds[widest] + bounds[widest + 1]) / 2;
    this.add({ x, y: this.points.length ? heightAt(this.points, x) : 0.5 });
  }

  removeChosen() {
    if (this.chosen < 0) return;
    const points = this.points.filter((_, i) => i !== this.chosen);
    this.set(points, Math.min(this.chosen, points.length - 1));
  }

  choose(i) {
    if (this.points.length === 0) return;
    this.chosen = Math.min(this.points.length - 1, Math.max(0, i));
    this.draw();
    this.say();
  }

  nudge(dx, dy) {
    if (this.chosen < 0) this.choose(0);
    const point = this.points[this.chosen];
    if (point) this.move(point.x + dx, point.y + dy);
  }

  say() {
    const point = this.points[this.chosen];
    this.spoken.textContent = point
      ? `Point ${this.chosen + 1} of ${this.points.length}: at ${number(point.x * (this.duration() || 0))} s ` +
        `${Math.round(point.y * this.workload.most)} requests/s`
      : this.points.length ? "" : "The curve is empty.";
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.size();
    const clip = (value) => Math.min(1, Math.max(0, value));
    return { x: clip((event.clientX - box.left - PAD) / width), y: clip(1 - (event.clientY - box.top - PAD) / height) };
  }

  near(event) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.size();
    return this.points.findIndex((p) =>
      Math.hypot(event.clientX - box.left - PAD - p.x * width, event.clientY - box.top - PAD - (1 - p.y) * height) <= NEAR_PX);
  }

  size() {
    return { width: this.canvas.clientWidth - 2 * PAD, height: this.canvas.clientHeight - 2 * PAD };
  }

  draw() {
    const scale = devicePixelRatio || 1;
    this.canvas.width = this.canvas.clientWidth * scale;
    this.canvas.height = this.canvas.clientHeight * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.translate(PAD, PAD);
    const { width, height } = this.size();
    if (width <= 0) return;
    const colours = getComputedStyle(this.canvas);
    this.drawGrid(pen, width, height, colours);
    pen.strokeStyle = colours.getPropertyValue("--accent");
    pen.lineWidth = 2;
    if (this.workload.ticks) this.drawTicks(pen, width, height);
    else this.drawCurve(pen, width, height, colours);
  }

  drawGrid(pen, width, height, colours) {
    pen.strokeStyle = colours.getPropertyValue("--line");
    pen.fillStyle = colours.getPropertyValue("--faint");
    pen.font = "11px system-ui, sans-serif";
    for (let i = 0; i <= 4; i += 1) {
      const y = (i / 4) * height;
      line(pen, [[0, y], [width, y]]);
      if (i < 4) pen.fillText(number((1 - i / 4) * this.workload.most), 2, y + 12);
      pen.textAlign = i === 4 ? "right" : "left";
      if (i > 0) pen.fillText(`${number((i / 4) * (this.duration() || 0))} s`, (i / 4) * width - (i === 4 ? 2 : 0), height - 3);
      pen.textAlign = "left";
    }
  }

  drawCurve(pen, width, height, colours) {
    if (this.points.length === 0) return;
    const steps = Math.ceil(width / 2);
    const at = (x) => [x * width, (1 - heightAt(this.points, x)) * height];
    line(pen, Array.from({ length: steps + 1 }, (_, i) => at(i / steps)));
    this.points.forEach((p, i) => {
      pen.beginPath();
      pen.arc(p.x * width, (1 - p.y) * height, i === this.chosen ? 6 : 4, 0, 2 * Math.PI);
      pen.fillStyle = colours.getPropertyValue(i === this.chosen ? "--bad" : "--accent");
      pen.fill();
    });
  }

  drawTicks(pen, width, height) {
    const { ticks, most } = this.workload;
    const steps = Math.min(ticks.length, Math.ceil(width / 2));
    line(pen, Array.from({ length: steps }, (_, i) => {
      const rate = ticks[Math.floor((i / steps) * ticks.length)];
      return [((i + 0.5) / steps) * width, (1 - Math.min(1, rate / most)) * height];
    }));
  }
}

function line(pen, places) {
  pen.beginPath();
  places.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}
