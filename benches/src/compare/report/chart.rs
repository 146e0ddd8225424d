//! A bar chart of the ratios as SVG, for light and dark backgrounds.

use super::{CellReport, Comparison};
use crate::contenders::Role;
use std::fmt::Write as _;

const LABELS: f64 = 250.0;
const BARS: f64 = 470.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 46.0;
const WIDTH: f64 = LABELS + BARS + 60.0;

// Bar and line colors are visible on white and on black; text follows the color scheme.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.quiet{fill:#6e7781}.label{text-anchor:end}\
.title{font-weight:600}.bar{fill:#3d85c6}.slow{fill:#c9713d}.line{stroke:#8b949e;stroke-width:1}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.quiet{fill:#9198a1}}";

/// Renders a bar for each cell with the speed of diskimg relative to qemu-img, on a logarithmic
/// scale.
pub(crate) fn render(comparison: &Comparison) -> String {
    let places: Vec<_> = comparison
        .places
        .iter()
        .map(|place| (format!("{} ({})", place.dir, place.file_system), speed_ups(&place.cells)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let ratios = || places.iter().flat_map(|(_, bars)| bars.iter().map(|(_, ratio)| *ratio));
    let scale = Scale::over(ratios());
    let rows: usize = places.iter().map(|(_, bars)| bars.len() + 2).sum();
    let height = HEAD + rows as f64 * ROW + ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>Speed of diskimg relative to qemu-img</title>\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"10\" y=\"22\">Speed relative to qemu-img (longer is faster)</text>\n"
    );
    let mut y = HEAD;
    for (place, bars) in &places {
        let _ = writeln!(svg, "<text class=\"quiet\" x=\"10\" y=\"{y}\">{}</text>", escaped(place));
        y += ROW / 2.0;
        scale.ticks(&mut svg, y, y + bars.len() as f64 * ROW);
        for (name, ratio) in bars {
            bar(&mut svg, &scale, y, name, *ratio);
            y += ROW;
        }
        y += ROW * 1.5;
    }
    let machine = escaped(&comparison.machine);
    let _ = writeln!(svg, "<text class=\"quiet\" x=\"10\" y=\"{y}\">{machine}</text>\n</svg>");
    svg
}

fn speed_ups(cells: &[CellReport]) -> Vec<(&str, f64)> {
    let speed_up = |cell: &CellReport| cell.speed_up(cell.with(Role::Ours)?);
    cells.iter().filter_map(|cell| Some((cell.name.as_str(), speed_up(cell)?))).collect()
}

fn bar(svg: &mut String, scale: &Scale, y: f64, name: &str, ratio: f64) {
    let (zero, end) = (scale.x(1.0), scale.x(ratio));
    let (left, width) = (zero.min(end), (zero - end).abs());
    let class = if ratio < 1.0 { "slow" } else { "bar" };
    let (text, base) = (zero.max(end) + 5.0, y + ROW * 0.68);
    let (top, thick) = (y + 3.0, ROW - 6.0);
    let _ = writeln!(
        svg,
        "<text class=\"label\" x=\"{:.0}\" y=\"{base:.1}\">{}</text>\
         <rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{thick:.1}\" rx=\"2\"/>\
         <text x=\"{text:.1}\" y=\"{base:.1}\">×{ratio:.2}</text>",
        LABELS - 8.0,
        escaped(name),
    );
}

/// A logarithmic scale from ratios to x coordinates.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// Returns a scale between powers of two that includes all `ratios` and 1.
    fn over(ratios: impl Iterator<Item = f64>) -> Self {
        let (low, high) = ratios.fold((0.0f64, 1.0f64), |(low, high), ratio| {
            (low.min(ratio.log2().floor()), high.max(ratio.log2().ceil()))
        });
        Self { low, high }
    }

    fn x(&self, ratio: f64) -> f64 {
        LABELS + BARS * (ratio.log2() - self.low) / (self.high - self.low)
    }

    fn ticks(&self, svg: &mut String, top: f64, bottom: f64) {
        for power in self.low as i32..=self.high as i32 {
            let ratio = 2f64.powi(power);
            let x = self.x(ratio);
            let opacity = if power == 0 { 1.0 } else { 0.25 };
            let _ = writeln!(
                svg,
                "<line class=\"line\" opacity=\"{opacity}\" x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\
                 <text class=\"quiet\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{ratio}</text>",
                bottom + 13.0,
            );
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_of_two_and_one_half_are_equally_far_from_one() {
        let scale = Scale::over([0.5, 2.0].into_iter());
        assert_eq!(scale.x(2.0) - scale.x(1.0), scale.x(1.0) - scale.x(0.5));
        assert_eq!(scale.x(0.5), LABELS);
    }
}
