//! `convert`.

use crate::arguments::{self, Input, Opening, references, unknown};
use crate::file::{self, Raised};
use crate::work;
use diskimg::target::Backing;
use diskimg::{Caching, Convert, Durability, Error, Image, Reflink, Report, Sparse};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use std::path::PathBuf;

/// How to convert: `Conversion` in `_types.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Conversion {
    format: String,
    options: Vec<(String, String)>,
    compress: bool,
    backing: Option<String>,
    backing_format: Option<String>,
    references: String,
    /// Bytes of a hole at least; `None` for no holes.
    sparse: Option<u64>,
    threads: Option<usize>,
    rate_limit: Option<u64>,
    salvage: bool,
    reflink: String,
    offload: bool,
    recompress: bool,
    verify: bool,
    verify_manifest: bool,
    durable: bool,
    direct: bool,
    in_place: bool,
    target_is_zero: bool,
}

/// Where it goes.
enum Destination {
    New(PathBuf),
    Existing(PathBuf),
    Object(Py<PyAny>),
}

/// What a conversion did: the fields of `Report`, in order.
type Done = (u64, u64, u64, u64, Vec<(u64, u64, String)>, Vec<String>);

/// Converts `sources`, each a name or file object and how to open it.
#[pyfunction]
pub(crate) fn convert(
    py: Python<'_>,
    sources: Vec<(Bound<'_, PyAny>, Opening)>,
    destination: &Bound<'_, PyAny>,
    how: Conversion,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<Done> {
    let inputs = sources
        .iter()
        .map(|(object, opening)| Ok((Input::new(object)?, opening.options(py)?)))
        .collect::<PyResult<Vec<_>>>()?;
    let configure = how.configure(py)?;
    let salvage = how.salvage;
    let destination = match destination.extract::<PathBuf>() {
        Ok(path) if how.in_place => Destination::Existing(arguments::plain(path)),
        Ok(path) => Destination::New(arguments::plain(path)),
        Err(_) => {
            file::require_output(destination)?;
            Destination::Object(destination.clone().unbind())
        }
    };
    let object = match &destination {
        Destination::Object(object) => Some(object.clone_ref(py)),
        _ => None,
    };
    let out = Raised::default();
    let raised: Vec<_> = inputs.iter().map(|(input, _)| input.raised()).collect();
    let report = work::run(py, progress.as_ref(), |callback| {
        let images = inputs.into_iter().map(|(input, options)| input.open(&options));
        let images = images.collect::<diskimg::Result<Vec<_>>>()?;
        let output = match &destination {
            Destination::Object(object) => {
                let output =
                    Python::attach(|py| file::output(object.bind(py), &images, out.clone()));
                Some(output.map_err(|e| Error::io("cannot write", std::io::Error::other(e)))?)
            }
            _ => None,
        };
        let convert = configure(joined(images)?).progress(callback);
        match (destination, output) {
            (Destination::New(path), _) => Ok((convert.run(path)?, false)),
            (Destination::Existing(path), _) => Ok((convert.run_existing(path)?, false)),
            (Destination::Object(_), Some((output, by_position))) => {
                Ok((convert.run_to(output)?, by_position))
            }
            (Destination::Object(_), None) => Err(Error::cancelled()),
        }
    });
    for raised in raised.iter().chain([&out]) {
        // A salvage goes on where reading fails, whoever says so; not where it is told to stop.
        let stops = |e: &PyErr| !salvage || !e.is_instance_of::<PyException>(py);
        if let Some(error) = raised.take().filter(stops) {
            return Err(error);
        }
    }
    let (report, by_position) = report?;
    if let Some(object) = object.filter(|_| by_position) {
        object.call_method1(py, "seek", (0, 2))?; // behind the image
    }
    Ok(fields(report))
}

/// All of them, one after the other; the Python half has seen that there is one.
fn joined<'a>(images: Vec<Image>) -> diskimg::Result<Convert<'a>> {
    let mut images = images.into_iter();
    let first = images.next().ok_or_else(|| Error::invalid("no source"))?;
    Ok(images.fold(Convert::new(first), Convert::append))
}

impl Conversion {
    /// What sets a conversion up, once its images are open.
    fn configure<'a>(
        &self,
        py: Python<'_>,
    ) -> PyResult<impl FnOnce(Convert<'a>) -> Convert<'a> + Send + use<'a>> {
        let format = arguments::format(py, &self.format)?;
        let options = arguments::options(self.options.clone());
        let references = references(&self.references)?;
        let backing = self.backing.clone().map(|name| Backing {
            name,
            format: self.backing_format.clone(),
            content_id: None,
        });
        let reflink = match self.reflink.as_str() {
            "auto" => Reflink::Auto,
            "always" => Reflink::Always,
            "never" => Reflink::Never,
            word => return Err(unknown("reflink", word, "auto, always or never")),
        };
        let (compress, salvage, offload) = (self.compress, self.salvage, self.offload);
        let (recompress, verify, manifest) = (self.recompress, self.verify, self.verify_manifest);
        let (threads, rate, is_zero) = (self.threads, self.rate_limit, self.target_is_zero);
        let sparse = self.sparse.map_or(Sparse::Off, Sparse::Blocks);
        let durability = if self.durable { Durability::Flushed } else { Durability::Cached };
        let caching = if self.direct { Caching::Direct } else { Caching::Kept };
        Ok(move |mut convert: Convert<'a>| {
            convert = convert
                .format(format)
                .options(options)
                .compress(compress)
                .backing_references(references)
                .sparse(sparse)
                .salvage(salvage)
                .reflink(reflink)
                .offload(offload)
                .recompress(recompress)
                .verify(verify)
                .verify_manifest(manifest)
                .durability(durability)
                .caching(caching)
                .target_is_zero(is_zero);
            if let Some(backing) = backing {
                convert = convert.backing(backing);
            }
            if let Some(threads) = threads {
                convert = convert.threads(threads);
            }
            match rate {
                Some(rate) => convert.rate_limit(rate),
                None => convert,
            }
        })
    }
}

fn fields(report: Report) -> Done {
    let salvaged =
        report.salvaged.into_iter().map(|lost| (lost.guest.start, lost.guest.end, lost.error));
    (
        report.guest_bytes,
        report.stored_bytes,
        report.shared_bytes,
        report.passed_bytes,
        salvaged.collect(),
        report.warnings,
    )
}
