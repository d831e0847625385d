// A load curve: points with x and y from 0 to 1, joined by a Catmull-Rom spline. Pure.

export const MOST_POINTS = 200;

/** The curve's height at x: flat outside its points, and never outside 0 to 1. */
export function heightAt(points, x) {
  if (points.length === 0) return 0;
  if (x <= points[0].x) return points[0].y;
  const last = points.length - 1;
  if (x >= points[last].x) return points[last].y;
  let right = 1;
  while (points[right].x < x) right += 1;
  return between(points, right - 1, x);
}

/** Inside one segment: the Hermite form of the spline, whose slopes are those of the neighbours. */
function between(points, left, x) {
  const [a, b] = [points[left], points[left + 1]];
  const width = b.x - a.x;
  if (width === 0) return b.y;
  const t = (x - a.x) / width;
  const [from, to] = [slope(points, left) * width, slope(points, left + 1) * width];
  const t2 = t * t;
  const t3 = t2 * t;
  const y =
    (2 * t3 - 3 * t2 + 1) * a.y + (t3 - 2 * t2 + t) * from + (3 * t2 - 2 * t3) * b.y + (t3 - t2) * to;
  return Math.min(1, Math.max(0, y));
}

function slope(points, i) {
  const before = points[Math.max(0, i - 1)];
  const after = points[Math.min(points.length - 1, i + 1)];
  return after.x === before.x ? 0 : (after.y - before.y) / (after.x - before.x);
}

/** The rate of each of `count` intervals: the curve in its middle, times `most`, rounded up. */
export function ticksOf(points, count, most) {
  return Array.from({ length: count }, (_, i) =>
    // A rounding error must not make one more request a second of a whole number.
    Math.ceil(Number((most * heightAt(points, (i + 0.5) / count)).toPrecision(12))),
  );
}

/** Points of a curve that is like these rates, so few that they can be moved by hand. */
export function pointsOf(ticks, most, few = 24) {
  const step = Math.max(1, ticks.length / few);
  const points = [];
  for (let at = 0; at < ticks.length; at += step) {
    const i = Math.floor(at);
    points.push({ x: (i + 0.5) / ticks.length, y: Math.min(1, ticks[i] / most) });
  }
  return points;
}

/** The points with one more, in order; one at the same place is replaced. */
export function withPoint(points, point) {
  const others = points.filter((p) => p.x !== point.x);
  if (others.length >= MOST_POINTS) return points;
  return [...others, point].sort((a, b) => a.x - b.x);
}
