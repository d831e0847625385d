// An experiment over time, fetched piece by piece, and its charts.

import { get } from "./api.js";
import { chart, largest } from "./chart.js";

const AGAIN_S = 5; // traces may come so late; intervals of that age are asked for anew

const LATENCIES = ["p50", "p95", "p99"];

/** What is known of an experiment's course. */
export class Course {
  constructor(id) {
    this.id = id;
    this.known = null;
  }

  /** Fetches what is new. */
  async refresh() {
    const since = this.known ? Math.max(0, (this.known.times.at(-1) ?? 0) - AGAIN_S) : 0;
    const query = this.known?.times.length ? `?since=${since}&interval=${this.known.interval}` : "";
    const fresh = await get(`experiments/${encodeURIComponent(this.id)}/charts${query}`);
    this.known = query ? joined(this.known, fresh) : fresh;
  }

  get end() {
    return (this.known.times.at(-1) ?? 0) + this.known.interval;
  }

  rates() {
    return [
      { name: "asked", values: this.known.asked, colour: 0 },
      { name: "answered", values: this.known.answered, colour: 1 },
      { name: "failed", values: this.known.failed, colour: 2 },
    ];
  }

  latencies() {
    return LATENCIES.map((name, i) => ({
      name, values: this.known.latencies[name].map((s) => (s == null ? null : s * 1000)), colour: [1, 3, 2][i],
    }));
  }

  cpu() {
    return Object.entries(this.known.cpu).map(([name, values], i) => ({ name, values, colour: 1 + (i % 4) }));
  }

  /** Its charts; `bounds` are those that another course's charts have, too. */
  charts(bounds = boundsOf([this])) {
    const { times } = this.known;
    return [
      chart({ title: "Rate", unit: "requests/s", times, lines: this.rates(), most: bounds.rate, end: bounds.end }),
      chart({ title: "Latency", unit: "ms", times, lines: this.latencies(), most: bounds.latency, end: bounds.end }),
      chart({ title: "Processors", unit: "% busy", times, lines: this.cpu(), most: 100, end: bounds.end }),
    ];
  }
}

/** The bounds of charts in which several courses can be compared. */
export function boundsOf(courses) {
  return {
    rate: Math.max(...courses.map((course) => largest(course.rates()))),
    latency: Math.max(...courses.map((course) => largest(course.latencies()))),
    end: Math.max(...courses.map((course) => course.end)),
  };
}

/** What was known up to where the fresh piece begins, and that piece. Pure. */
export function joined(old, fresh) {
  const kept = fresh.times.length ? old.times.filter((time) => time < fresh.times[0]).length : old.times.length;
  const join = (before, after) => [...(before ?? Array(old.times.length).fill(null)).slice(0, kept), ...(after ?? Array(fresh.times.length).fill(null))];
  const joinAll = (before, after) => Object.fromEntries(
    [...new Set([...Object.keys(before), ...Object.keys(after)])].map((key) => [key, join(before[key], after[key])]));
  return {
    ...fresh,
    times: join(old.times, fresh.times),
    asked: join(old.asked, fresh.asked),
    answered: join(old.answered, fresh.answered),
    failed: join(old.failed, fresh.failed),
    latencies: joinAll(old.latencies, fresh.latencies),
    cpu: joinAll(old.cpu, fresh.cpu),
  };
}
