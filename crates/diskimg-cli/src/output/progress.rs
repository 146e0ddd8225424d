//! Progress output: qemu-img's `(45.34/100%)` for programs, a progress bar on terminals.

use crate::interrupt;
use diskimg::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Mutex;

/// Where to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProgressMode {
    /// `-p`.
    pub(crate) requested: bool,
    /// `-q`.
    pub(crate) quiet: bool,
    /// Whether the image is written to standard output.
    pub(crate) stdout_taken: bool,
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
}

impl Meter {
    /// Shows 0% and installs the signal handlers.
    pub(crate) fn start(mode: ProgressMode, step: f64) -> Self {
        interrupt::watch();
        let meter = Self { style: Style::choose(mode), step, shown: Mutex::new(None) };
        meter.show(0.0, false);
        meter
    }

    /// The progress callback for the library; breaks after a signal.
    pub(crate) fn report(&self, progress: Progress) -> ControlFlow<()> {
        if let Style::Bar(bar) = &self.style {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
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
            Style::Silent | Style::Percent => {
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

    /// Removes the progress bar before other output.
    pub(crate) fn clear(&self) {
        if let Style::Bar(bar) = &self.style {
            bar.finish_and_clear();
        }
    }

    /// Ends progress output, after success and failure.
    pub(crate) fn end(self) {
        match self.style {
            Style::Silent => {}
            Style::Percent => print("\n"),
            Style::Bar(bar) => bar.finish_and_clear(),
        }
    }

    fn show(&self, percent: f64, force: bool) {
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
    fn choose(mode: ProgressMode) -> Self {
        if mode.quiet {
            Self::Silent
        } else if io::stderr().is_terminal() && (!mode.requested || io::stdout().is_terminal()) {
            Self::Bar(bar())
        } else if mode.requested && !mode.stdout_taken {
            Self::Percent
        } else {
            Self::Silent
        }
    }
}

fn bar() -> ProgressBar {
    let color = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let template = if color {
        "{bar:36.cyan/dim} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
    } else {
        "{bar:36} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▉▊▋▌▍▎▏ ");
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style);
    bar
}
