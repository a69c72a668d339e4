// The chart of today's orders per minute against yesterday's, drawn by uPlot: a baseline, one labelled grid line, and the names of the curves at their ends.

import { count } from "/assets/format.js";
import { word } from "/assets/words.js";

/** Windows of the moving average, in minutes, and the orders a window should hold at the peak: with fewer, noise hides the shape of the day. */
const AVERAGE_MINUTES = [5, 15, 30];
const AVERAGE_ORDERS = 60;
const DAY_MINUTES = 1_440;

/** The shortest window that holds enough orders. */
function averageMinutes(...curves) {
  const busiest = Math.max(1 / 60, ...curves.map((orders) => peak(orders)));
  return AVERAGE_MINUTES.find((minutes) => busiest * minutes >= AVERAGE_ORDERS) ?? AVERAGE_MINUTES.at(-1);
}

/** Orders per minute of the busiest hour. */
function peak(orders) {
  let [sum, most] = [0, 0];
  orders.forEach((one, minute) => {
    sum += one - (orders[minute - 60] ?? 0);
    most = Math.max(most, sum / 60);
  });
  return most;
}

/** The trailing moving average. Unless the day is `complete`, the last minute is left out: it has only begun. */
export function smooth(orders, minutes, complete) {
  const until = complete ? orders.length : Math.max(orders.length - 1, 0);
  const means = [];
  let sum = 0;
  for (let minute = 0; minute < until; minute += 1) {
    sum += orders[minute] - (orders[minute - minutes] ?? 0);
    means.push(sum / Math.min(minute + 1, minutes));
  }
  return means;
}

/** The next round number, the top of the scale. */
function roundUp(number) {
  const step = 10 ** Math.floor(Math.log10(Math.max(number, 1)));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((times) => times * step).find((round) => round >= number) ?? number;
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Creates a chart in `element`; call `show` of the result with the curves. */
export function chart(element) {
  let plot = null;
  let shown = null;
  let plotKey = "";

  const draw = () => {
    if (!shown) {
      return;
    }
    const { width, height } = element.getBoundingClientRect();
    if (width < 40 || height < 40) {
      return;
    }
    const minutes = Math.max(DAY_MINUTES, shown.yesterday.orders.length, shown.today.orders.length);
    const average = averageMinutes(shown.today.orders, shown.yesterday.orders);
    const today = smooth(shown.today.orders, average, false);
    const yesterday = smooth(shown.yesterday.orders, average, true);
    const x = Array.from({ length: minutes + 1 }, (_, minute) => minute);
    const fill = (line) => x.map((minute) => line[minute] ?? null);
    const top = roundUp(Math.max(1, ...today, ...yesterday) * 1.06);
    const data = [x, fill(yesterday), fill(today)];
    const size = Math.max(11, Math.min(height / 11, width / 46));
    const key = [Math.round(width), Math.round(height), top, minutes, style("--ink"), word("today")].join();
    if (plot && key === plotKey) {
      plot.setData(data, false);
      plot.redraw(false);
      return;
    }
    plot?.destroy();
    plotKey = key;
    plot = createPlot(element, { width, height, size, top, minutes, data });
  };

  new ResizeObserver(draw).observe(element);
  return {
    show(curves) {
      shown = curves;
      draw();
    },
    redraw() {
      plotKey = "";
      draw();
    },
  };
}

function createPlot(element, { width, height, size, top, minutes, data }) {
  const [ink, quiet, line, orders, ground] = ["--ink", "--quiet", "--line", "--orders", "--ground"].map(style);
  const family = getComputedStyle(document.body).fontFamily;
  const drawNames = (plot) => {
    const { ctx } = plot;
    const dpr = devicePixelRatio;
    ctx.save();
    ctx.font = `${size * dpr}px ${family}`;
    ctx.textBaseline = "middle";
    // The one grid line, with its label.
    const y = plot.valToPos(top, "y", true);
    ctx.strokeStyle = line;
    ctx.lineWidth = dpr;
    ctx.beginPath();
    ctx.moveTo(plot.bbox.left, y);
    ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
    ctx.stroke();
    ctx.fillStyle = quiet;
    ctx.textAlign = "left";
    ctx.fillText(count(top), plot.bbox.left, y + size * dpr * 0.8);
    const last = (series) => {
      const values = plot.data[series];
      let at = values.length - 1;
      while (at > 0 && values[at] === null) {
        at -= 1;
      }
      return [plot.valToPos(at, "x", true), plot.valToPos(values[at] ?? 0, "y", true), at];
    };
    const right = plot.bbox.left + plot.bbox.width;
    // An outline in the ground colour keeps the curve from touching the letters.
    const write = (text, px, py, colour) => {
      ctx.lineWidth = size * dpr * 0.45;
      ctx.lineJoin = "round";
      ctx.strokeStyle = ground;
      ctx.strokeText(text, px, py);
      ctx.fillStyle = colour;
      ctx.fillText(text, px, py);
    };
    const label = (text, px, py, colour) => {
      const wide = ctx.measureText(text).width;
      const room = px + wide + size * dpr * 1.2 < right;
      ctx.textAlign = room ? "left" : "right";
      // Right of the curve's end; above it where there is no room.
      const free = room ? py : py - size * dpr * 1.7;
      const bounded = Math.min(Math.max(free, plot.bbox.top + size * dpr), plot.bbox.top + plot.bbox.height - size * dpr * 0.7);
      write(text, room ? px + size * dpr * 0.7 : Math.min(px + wide / 2, right), bounded, colour);
    };
    if (plot.data[2][0] !== null) {
      const [px, py] = last(2);
      ctx.fillStyle = orders;
      ctx.beginPath();
      ctx.arc(px, py, size * dpr * 0.28, 0, 2 * Math.PI);
      ctx.fill();
      label(word("today"), px, py, ink);
    }
    if (plot.data[1].some((value) => value > 0)) {
      const [todayX] = last(2);
      let [px, py] = last(1);
      if (right - todayX < size * dpr * 9) {
        // Both curves end at the right edge: yesterday's is named beside its peak.
        const at = plot.data[1].indexOf(Math.max(...plot.data[1]));
        [px, py] = [plot.valToPos(at, "x", true) + size * dpr * 2.2, plot.valToPos(plot.data[1][at], "y", true)];
        ctx.textAlign = px + size * dpr * 5 < right ? "left" : "right";
      } else {
        ctx.textAlign = "right";
        py -= size * dpr * 0.9;
      }
      write(word("yesterday"), px, Math.max(py, plot.bbox.top + size * dpr * 0.8), quiet);
    }
    ctx.restore();
  };
  const hours = (_plot, splits) => splits.map((minute) => (minute === minutes ? "24" : String(minute / 60)));
  const step = width < 420 ? 360 : 180;
  return new uPlot(
    {
      width,
      height,
      padding: [size * 0.6, size * 0.75, 0, size * 0.75],
      cursor: { show: false },
      legend: { show: false },
      select: { show: false },
      scales: { x: { time: false, range: [0, minutes] }, y: { range: [0, top] } },
      axes: [
        {
          stroke: quiet,
          font: `${size}px ${family}`,
          size: size * 2,
          gap: size * 0.5,
          grid: { show: false },
          ticks: { show: false },
          border: { show: true, stroke: line, width: 1 },
          splits: () => Array.from({ length: Math.floor(minutes / step) + 1 }, (_, nth) => nth * step),
          values: hours,
        },
        { show: false },
      ],
      series: [
        {},
        { stroke: quiet, width: Math.max(1, size / 16), points: { show: false }, alpha: 0.75 },
        { stroke: ink, width: Math.max(2, size / 7), points: { show: false } },
      ],
      hooks: { draw: [drawNames] },
    },
    data,
    element,
  );
}
