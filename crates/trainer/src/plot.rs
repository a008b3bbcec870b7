use std::collections::BTreeMap;
use std::fmt::Write;

use crate::LogLine;

/// Widths and heights of a panel and its margins, in units of the picture.
const PANEL: (f64, f64) = (420.0, 220.0);
const LEFT: f64 = 64.0;
const TOP: f64 = 34.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 34.0;
/// Panels side by side.
const COLUMNS: usize = 2;
const COLOURS: [&str; 2] = ["#54278f", "#006d2c"];
/// Points of a curve, at most; longer ones are thinned out.
const MOST_POINTS: usize = 2000;

/// The points of a curve, and the average it is of.
type Curve<'a> = (&'a str, Vec<(f64, f64)>);

/// Draws a run's curves as an SVG picture: one panel for each metric, training and validation in it, over the iterations.
///
/// Metrics whose names begin with one of `shown` are drawn; all, if there are none.
pub fn plot_curves(title: &str, lines: &[LogLine], shown: &[String]) -> String {
    let mut panels: BTreeMap<&str, Vec<Curve<'_>>> = BTreeMap::new();
    let keys: std::collections::BTreeSet<&str> = lines.iter().flat_map(|line| line.values.keys().map(String::as_str)).collect();
    for key in keys {
        let metric = key.strip_suffix("_train").or_else(|| key.strip_suffix("_val")).unwrap_or(key);
        if !shown.is_empty() && !shown.iter().any(|shown| metric.starts_with(shown.as_str())) {
            continue;
        }
        let points = lines.iter().filter_map(|line| Some((line.iteration as f64, (*line.values.get(key)?)?)));
        let points = thinned(points.collect());
        if !points.is_empty() {
            panels.entry(metric).or_default().push((key, points));
        }
    }
    let rows = panels.len().div_ceil(COLUMNS).max(1);
    let (width, height) = ((PANEL.0 + LEFT + RIGHT) * COLUMNS as f64, (PANEL.1 + TOP + BOTTOM) * rows as f64 + TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    for (number, (metric, curves)) in panels.iter().enumerate() {
        let (column, row) = (number % COLUMNS, number / COLUMNS);
        let left = LEFT + column as f64 * (PANEL.0 + LEFT + RIGHT);
        let top = 2.0 * TOP + row as f64 * (PANEL.1 + TOP + BOTTOM);
        panel(&mut svg, metric, curves, (left, top));
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, metric: &str, curves: &[Curve<'_>], (left, top): (f64, f64)) {
    let all = || curves.iter().flat_map(|(_, points)| points);
    let range = |value: fn(&(f64, f64)) -> f64| {
        let (low, high) = all().map(value).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if high > low { (low, high) } else { (low - 0.5, low + 0.5) }
    };
    let (xs, ys) = (range(|point| point.0), range(|point| point.1));
    let x = |value: f64| left + (value - xs.0) / (xs.1 - xs.0) * PANEL.0;
    let y = |value: f64| top + PANEL.1 - (value - ys.0) / (ys.1 - ys.0) * PANEL.1;
    let mut put = |text: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = svg.write_fmt(text);
    };
    put(format_args!("<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>\n", top - 8.0, escaped(metric)));
    for share in [0.0, 0.5, 1.0] {
        let (across, up) = (xs.0 + share * (xs.1 - xs.0), ys.0 + share * (ys.1 - ys.0));
        let (right, at) = (left + PANEL.0, y(up));
        put(format_args!("<path d=\"M{left} {at:.1}H{right}\" stroke=\"#e1e1e1\"/>\n"));
        put(format_args!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n", left - 6.0, at + 4.0, number(up)));
        put(format_args!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", x(across), top + PANEL.1 + 16.0, number(across)));
    }
    for (place, (key, points)) in curves.iter().enumerate() {
        let colour = COLOURS[usize::from(key.ends_with("_val"))];
        let path: Vec<String> = points.iter().map(|(across, up)| format!("{:.1} {:.1}", x(*across), y(*up))).collect();
        put(format_args!("<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n", path.join("L")));
        let name = key.rsplit('_').next().unwrap_or(key);
        let legend = left + PANEL.0 - 60.0 * (curves.len() - place) as f64 + 60.0;
        put(format_args!("<text x=\"{legend}\" y=\"{}\" text-anchor=\"end\" fill=\"{colour}\">{}</text>\n", top - 8.0, escaped(name)));
    }
}

/// The points, thinned out to [`MOST_POINTS`]; the last one stays.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(MOST_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.into_iter().enumerate().filter(|(place, _)| place % every == 0 || *place == last).map(|(_, point)| point).collect()
}

/// A number in few digits.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e5).contains(&size) => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.2e}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_a_panel_with_its_curves() {
        let line = |iteration: u64, train: f64, val: Option<f64>| LogLine {
            iteration,
            step: 0,
            skipped: 0,
            values: [("loss/<a>_train".to_owned(), Some(train)), ("loss/<a>_val".to_owned(), val), ("edit/acc_val".to_owned(), Some(0.5))]
                .into(),
        };
        let svg = plot_curves("run & more", &[line(1, 2.0, None), line(2, 1.0, Some(1.5)), line(3, 0.5, Some(1.0))], &[]);
        assert!(svg.contains("run &amp; more") && svg.contains("loss/&lt;a&gt;") && svg.contains(">val<"), "{svg}");
        assert_eq!(svg.matches("stroke-width").count(), 3);
        let chosen = plot_curves("", &[line(1, 2.0, None)], &["edit".into()]);
        assert!(chosen.contains("edit/acc") && !chosen.contains("loss/"));
        assert_eq!((number(0.25), number(12.0), number(1e-6), number(0.0)), ("0.25".into(), "12".into(), "1.00e-6".into(), "0".into()));
        assert_eq!(thinned((0..4001).map(|n| (f64::from(n), 0.0)).collect()).last(), Some(&(4000.0, 0.0)));
    }
}
