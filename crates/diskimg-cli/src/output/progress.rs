//! Progress output: a progress bar on terminals, qemu-img's `(45.34/100%)`, or lines of JSON.

use crate::interrupt;
use crate::output::color::Colors;
use diskimg::Progress;
use indicatif::{
    BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Minimum time between two lines of JSON.
const JSON_INTERVAL: Duration = Duration::from_millis(100);

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProgressFormat {
    /// `(12.34/100%)` on standard output.
    Text,
    /// An object on a line of standard error for each update.
    Json,
}

/// Where to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProgressMode {
    /// `-p`.
    pub(crate) requested: Option<ProgressFormat>,
    /// `-q`.
    pub(crate) quiet: bool,
    /// Whether the image is written to standard output.
    pub(crate) stdout_taken: bool,
}

impl ProgressMode {
    /// Shows nothing.
    pub(crate) fn silent() -> Self {
        Self { requested: None, quiet: true, stdout_taken: false }
    }
}

/// Shows progress and reports interruption to the operation.
#[derive(Debug)]
pub(crate) struct Meter {
    style: Style,
    /// Minimum percentage between two updates: 1 for convert, 2 for compare, as in qemu-img.
    step: f64,
    /// Percentage shown last.
    shown: Mutex<Option<f64>>,
}

#[derive(Debug)]
enum Style {
    /// Shows nothing.
    Silent,
    /// Prints `(45.34/100%)` to standard output.
    Percent,
    /// Draws a progress bar on standard error.
    Bar(ProgressBar),
    /// Writes lines of JSON to standard error.
    Json(Mutex<Lines>),
}

/// The lines of JSON that were written.
#[derive(Debug)]
struct Lines {
    start: Instant,
    /// When the last one was written, and how many bytes it said were done.
    last: Option<(Instant, u64)>,
    /// The total of the last update.
    total: u64,
}

/// An update as JSON.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct Update {
    event: &'static str,
    done_bytes: u64,
    total_bytes: u64,
    percent: f64,
    /// Bytes per second since the start.
    rate: u64,
    /// Estimated seconds to the end.
    remaining_seconds: Option<u64>,
}

impl Meter {
    /// Shows 0% and installs the signal handlers.
    pub(crate) fn start(mode: ProgressMode, step: f64, colors: Colors) -> Self {
        interrupt::watch();
        let meter = Self { style: Style::choose(mode, colors), step, shown: Mutex::new(None) };
        meter.show(0.0, false);
        meter
    }

    /// The progress callback for the library; breaks after a signal.
    pub(crate) fn report(&self, progress: Progress) -> ControlFlow<()> {
        if let Style::Bar(bar) = &self.style {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
        if let Style::Json(lines) = &self.style {
            lines.lock().unwrap_or_else(|e| e.into_inner()).update(progress);
        }
        if progress.total > 0 {
            let percent = progress.done as f64 * 100.0 / progress.total as f64;
            self.show(percent, false);
            if interrupt::progress_wanted() {
                self.print_line(percent);
            }
        }
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Prints a line of progress because a signal asked for it.
    fn print_line(&self, percent: f64) {
        let line = format!("    ({percent:3.2}/100%)");
        match &self.style {
            Style::Bar(bar) => bar.println(line),
            Style::Silent | Style::Percent | Style::Json(_) => {
                let _ = writeln!(io::stderr(), "{line}");
            }
        }
    }

    /// Shows 100% unless it is shown already.
    pub(crate) fn reach_end(&self) {
        self.show(100.0, false);
    }

    /// Shows 100% once more than needed, as qemu-img does at the end of a conversion.
    pub(crate) fn complete(&self) {
        self.show(100.0, false);
        self.show(100.0, true);
    }

    /// Shows 100%, also if it is shown already, as qemu-img does at the end of `amend`.
    pub(crate) fn finish(&self) {
        self.show(100.0, true);
    }

    /// Removes the progress bar before other output.
    pub(crate) fn clear(&self) {
        if let Style::Bar(bar) = &self.style {
            bar.finish_and_clear();
        }
    }

    /// Ends progress output, after success and failure.
    pub(crate) fn end(self) {
        match self.style {
            Style::Silent | Style::Json(_) => {}
            Style::Percent => print("\n"),
            Style::Bar(bar) => bar.finish_and_clear(),
        }
    }

    fn show(&self, percent: f64, force: bool) {
        if let Style::Json(lines) = &self.style
            && percent >= 100.0
        {
            lines.lock().unwrap_or_else(|e| e.into_inner()).end();
        }
        if !matches!(self.style, Style::Percent) {
            return;
        }
        // Held while writing: workers report out of order, but the percentage must not decrease.
        let mut shown = self.shown.lock().unwrap_or_else(|e| e.into_inner());
        let due = shown.is_none_or(|last| {
            percent > last + self.step || percent >= 100.0 && last < 100.0 || force
        });
        if due {
            *shown = Some(percent);
            print(&format!("    ({percent:3.2}/100%)\r"));
        }
    }
}

/// Prints to standard output. Errors are ignored: progress is no result, and the operation continues
/// if the reader closes the pipe.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

impl Style {
    fn choose(mode: ProgressMode, colors: Colors) -> Self {
        match mode.requested {
            _ if mode.quiet => Self::Silent,
            Some(ProgressFormat::Json) => {
                Self::Json(Mutex::new(Lines { start: Instant::now(), last: None, total: 0 }))
            }
            Some(ProgressFormat::Text) if !mode.stdout_taken => Self::Percent,
            _ if io::stderr().is_terminal() => Self::Bar(bar(colors.stderr)),
            _ => Self::Silent,
        }
    }
}

impl Lines {
    /// Writes a line, unless the last one is too recent. Workers report out of order: what is done
    /// does not decrease.
    fn update(&mut self, progress: Progress) {
        self.total = progress.total;
        let now = Instant::now();
        let is_end = progress.done >= progress.total;
        if let Some((last, done)) = self.last
            && (progress.done <= done || (now - last < JSON_INTERVAL && !is_end))
        {
            return;
        }
        self.last = Some((now, progress.done));
        let seconds = (now - self.start).as_secs_f64();
        let rate = if seconds > 0.0 { (progress.done as f64 / seconds) as u64 } else { 0 };
        let update = Update {
            event: "progress",
            done_bytes: progress.done,
            total_bytes: progress.total,
            percent: (progress.done as f64 * 10_000.0 / progress.total.max(1) as f64).round()
                / 100.0,
            rate,
            remaining_seconds: (progress.total - progress.done.min(progress.total))
                .checked_div(rate),
        };
        if let Ok(line) = serde_json::to_string(&update) {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Writes the last line, which says that everything is done, unless it was written.
    fn end(&mut self) {
        self.update(Progress::new(self.total, self.total));
    }
}

fn bar(color: bool) -> ProgressBar {
    // The bar takes what the rest, whose width is fixed, leaves of the line: 26 of 80 columns, 6 of
    // 60.
    let bar = if color { "{wide_bar:.cyan/dim}" } else { "{wide_bar}" };
    let template =
        format!("{bar} {{percent:>3}}% {{bytes:>10}}/{{total_bytes}} {{rate:>12}} {{left:>9}}");
    let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
        let _ = match state.pos() {
            0 => Ok(()),
            _ => write!(text, "{}/s", BinaryBytes(state.per_sec() as u64)),
        };
    };
    let left = |state: &ProgressState, text: &mut dyn fmt::Write| {
        let _ = match state.pos() {
            0 => Ok(()), // It is not known yet.
            _ => write!(text, "{:#} left", HumanDuration(state.eta())),
        };
    };
    let style = ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
        .with_key("left", left)
        .progress_chars("█▉▊▋▌▍▎▏░");
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style);
    bar
}
