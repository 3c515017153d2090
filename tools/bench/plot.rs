//! A roofline as SVG: operations per byte against speed, both logarithmic, one dot a case.

use super::roofline::Ceilings;
use std::fmt::Write;

#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: String,
    /// Operations per byte.
    pub intensity: f64,
    pub tflops: f64,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 600.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 65.0;

/// A logarithmic axis: values `from .. to` along pixels `start .. end`.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    /// Over all values, widened to whole marks.
    fn over(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Axis {
        let (low, high) = values
            .filter(|v| v.is_finite() && *v > 0.0)
            .fold((f64::INFINITY, 0f64), |(low, high), v| (low.min(v), high.max(v)));
        // Nothing to show but the ceilings, at worst.
        let (low, high) = if low <= high { (low, high) } else { (1.0, 1000.0) };
        let from = marks(low / 5.0, low / 1.1).last().copied().unwrap_or(low / 2.0);
        let to = marks(high * 1.15, high * 5.0).first().copied().unwrap_or(high * 2.0);
        Axis { from, to, start, end }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.clamp(self.from, self.to) / self.from).ln() / (self.to / self.from).ln();
        self.start + part * (self.end - self.start)
    }

    fn marks(&self) -> Vec<f64> {
        marks(self.from, self.to)
    }
}

/// 1, 2 and 5 times powers of ten within a range.
fn marks(from: f64, to: f64) -> Vec<f64> {
    let mut all = Vec::new();
    for exponent in from.log10().floor() as i32..=to.log10().ceil() as i32 {
        all.extend([1.0, 2.0, 5.0].map(|m| m * 10f64.powi(exponent)));
    }
    all.retain(|m| *m >= from * 0.999 && *m <= to * 1.001);
    all
}

/// `measured`: the ceilings are this run's, and not the reference.
pub fn svg(points: &[Point], ceilings: &Ceilings, measured: bool, device: &str) -> String {
    let ridge = ceilings.ridge();
    let x = Axis::over(points.iter().map(|p| p.intensity).chain([ridge]), LEFT, WIDTH - RIGHT);
    let y = Axis::over(points.iter().map(|p| p.tflops).chain([ceilings.tflops]), HEIGHT - BOTTOM, TOP);
    let mut svg = String::new();
    let mut add = |line: String| {
        svg.push_str(&line);
        svg.push('\n');
    };
    add(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">"
    ));
    add(format!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"));
    let source = if measured { "ceilings of the same run" } else { "reference ceilings" };
    add(text(LEFT, 26.0, "start", "#111", &format!("Dense decode on {device}"), " font-size=\"17\""));
    add(text(LEFT, 45.0, "start", "#555", &format!("{} cases, {source}", points.len()), ""));

    for mark in x.marks() {
        let at = x.at(mark);
        add(line([at, TOP], [at, HEIGHT - BOTTOM], "#e4e4e4", 1.0));
        add(text(at, HEIGHT - BOTTOM + 20.0, "middle", "#333", &format!("{mark}"), ""));
    }
    for mark in y.marks() {
        let at = y.at(mark);
        add(line([LEFT, at], [WIDTH - RIGHT, at], "#e4e4e4", 1.0));
        add(text(LEFT - 8.0, at + 4.0, "end", "#333", &format!("{mark}"), ""));
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    add(text(middle, HEIGHT - 18.0, "middle", "#111", "operations per byte", ""));
    let (at, turn) = (HEIGHT / 2.0, format!(" transform=\"rotate(-90 22 {})\"", HEIGHT / 2.0));
    add(text(22.0, at, "middle", "#111", "TFLOPS", &turn));

    // Memory: speed = intensity x bandwidth, from where it enters the picture up to the ridge.
    let enters = x.from.max(y.from * 1e3 / ceilings.read_gbps);
    let low = [x.at(enters), y.at(enters * ceilings.read_gbps / 1e3)];
    let top = [x.at(ridge), y.at(ceilings.tflops)];
    add(line(low, top, "#b3261e", 2.0));
    add(line(top, [WIDTH - RIGHT, top[1]], "#b3261e", 2.0));
    let angle = (top[1] - low[1]).atan2(top[0] - low[0]).to_degrees();
    // Labels stand above their lines.
    let along = [(low[0] + top[0]) / 2.0, (low[1] + top[1]) / 2.0];
    let turn = format!(" transform=\"rotate({angle:.1} {:.1} {:.1})\"", along[0], along[1]);
    let label = format!("{:.2} TB/s", ceilings.read_gbps / 1e3);
    add(text(along[0], along[1] - 7.0, "middle", "#b3261e", &label, &turn));
    let label = format!("{:.0} TFLOPS", ceilings.tflops);
    add(text(WIDTH - RIGHT - 4.0, top[1] - 7.0, "end", "#b3261e", &label, ""));

    for point in points {
        let floor = ceilings.tflops.min(point.intensity * ceilings.read_gbps / 1e3);
        add(format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4.5\" fill=\"#1a56b0\" fill-opacity=\"0.65\"><title>{}: {:.1} \
             TFLOPS, {:.0}% of the ceiling</title></circle>",
            x.at(point.intensity),
            y.at(point.tflops),
            escape(&point.name),
            point.tflops,
            100.0 * point.tflops / floor
        ));
    }
    add("</svg>".into());
    svg
}

fn line(from: [f64; 2], to: [f64; 2], color: &str, width: f64) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\" stroke-width=\"{width}\"/>",
        from[0], from[1], to[0], to[1]
    )
}

fn text(x: f64, y: f64, anchor: &str, color: &str, text: &str, attributes: &str) -> String {
    let mut element = String::new();
    let _ = write!(element, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\"{attributes}>");
    element.push_str(&escape(text));
    element.push_str("</text>");
    element
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
