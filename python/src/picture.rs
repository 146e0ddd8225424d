//! The picture of an image.

use crate::image::Image;
use crate::work;
use diskimg::{Draw, ErrorKind, Progress};
use pyo3::prelude::*;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Returns the page with a map of the image.
#[pyfunction]
pub(crate) fn map_html(
    py: Python<'_>,
    image: &Image,
    check: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<String> {
    let opened = image.get()?;
    let page = work::run(py, progress.as_ref(), |callback| {
        Ok(Draw::new(&opened).check(check).progress(callback).run()?.to_html())
    });
    image.raised().or(page)
}

/// Returns a fragment of HTML about the image, or `None` if that takes longer than this many
/// seconds.
#[pyfunction]
pub(crate) fn map_summary(
    py: Python<'_>,
    image: &Image,
    max_seconds: f64,
) -> PyResult<Option<String>> {
    let opened = image.get()?;
    let end = Instant::now().checked_add(Duration::from_secs_f64(max_seconds.clamp(0.0, 1e6)));
    let summary = work::run(py, None, |callback| {
        let in_time = |progress: Progress| match end.is_some_and(|end| Instant::now() > end) {
            true => ControlFlow::Break(()),
            false => callback(progress),
        };
        match Draw::new(&opened).progress(&in_time).run() {
            Ok(picture) => Ok(Some(picture.to_html_summary())),
            Err(error) if error.kind() == ErrorKind::Cancelled => Ok(None),
            Err(error) => Err(error),
        }
    });
    image.raised().or(summary)
}
