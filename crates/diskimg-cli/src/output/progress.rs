//! How far it is: qemu-img's `(45.34/100%)` for programs, a bar for people.

use crate::interrupt;
use diskimg::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Mutex;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProgressMode {
    /// `-p`.
    pub(crate) asked: bool,
    /// `-q`.
    pub(crate) quiet: bool,
    /// Standard output carries the image itself.
    pub(crate) stdout_taken: bool,
}

/// Shows progress and watches for the request to stop.
#[derive(Debug)]
pub(crate) struct Meter {
    face: Face,
    /// Percent between two lines: 1 for convert, 2 for compare.
    step: f64,
    /// Percent shown last.
    shown: Mutex<Option<f64>>,
}

#[derive(Debug)]
enum Face {
    Silent,
    /// qemu-img's, on standard output.
    Percent,
    /// On standard error, which is a terminal.
    Bar(ProgressBar),
}

impl Meter {
    /// Shows 0 %, and lets signals stop the work from now on.
    pub(crate) fn start(wish: ProgressMode, step: f64) -> Self {
        interrupt::watch();
        let meter = Self { face: Face::choose(wish), step, shown: Mutex::new(None) };
        meter.show(0.0, false);
        meter
    }

    /// What the library calls as it goes along.
    pub(crate) fn report(&self, progress: Progress) -> ControlFlow<()> {
        if let Face::Bar(bar) = &self.face {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
        if progress.total > 0 {
            self.show(progress.done as f64 * 100.0 / progress.total as f64, false);
        }
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Says 100 %, if that was not said.
    pub(crate) fn reach_end(&self) {
        self.show(100.0, false);
    }

    /// Says 100 %, once more than needed: so qemu-img ends a conversion.
    pub(crate) fn complete(&self) {
        self.show(100.0, false);
        self.show(100.0, true);
    }

    /// Makes room for other output on the terminal.
    pub(crate) fn clear(&self) {
        if let Face::Bar(bar) = &self.face {
            bar.finish_and_clear();
        }
    }

    /// The last thing shown, whether the work succeeded or not.
    pub(crate) fn end(self) {
        match self.face {
            Face::Silent => {}
            Face::Percent => put("\n"),
            Face::Bar(bar) => bar.finish_and_clear(),
        }
    }

    fn show(&self, percent: f64, anyway: bool) {
        if !matches!(self.face, Face::Percent) {
            return;
        }
        // Held while writing: workers report out of order, and a reader of the
        // pipe takes the last line for the truth.
        let mut shown = self.shown.lock().unwrap_or_else(|e| e.into_inner());
        let due = shown.is_none_or(|last| {
            percent > last + self.step || percent >= 100.0 && last < 100.0 || anyway
        });
        if due {
            *shown = Some(percent);
            put(&format!("    ({percent:3.2}/100%)\r"));
        }
    }
}

/// Whoever read the progress may have gone; the work goes on.
fn put(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

impl Face {
    fn choose(wish: ProgressMode) -> Self {
        if wish.quiet {
            Self::Silent
        } else if io::stderr().is_terminal() && (!wish.asked || io::stdout().is_terminal()) {
            Self::Bar(bar())
        } else if wish.asked && !wish.stdout_taken {
            Self::Percent
        } else {
            Self::Silent
        }
    }
}

fn bar() -> ProgressBar {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let template = if colour {
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
