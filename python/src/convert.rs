//! The function `convert`.

use crate::arguments::{self, Input, OpenArgs, word};
use crate::file::{self, Raised};
use crate::url::RemoteImage;
use crate::work;
use diskimg::{
    Caching, Convert, DigestAlgorithm, Durability, Error, Image, OpenOptions, Report, Sparse,
};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use std::ffi::OsString;
use std::path::PathBuf;

/// How to convert. Corresponds to `ConvertArgs` in `_types.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ConvertArgs {
    format: String,
    options: Vec<(String, String)>,
    compress: bool,
    /// Offset and length in bytes.
    part: Option<(u64, u64)>,
    backing: Option<String>,
    backing_format: Option<String>,
    external_files: String,
    limits: Vec<(String, u64)>,
    possible_parents: Vec<PathBuf>,
    force_share: bool,
    /// Minimum length of a hole in bytes; `None` for no holes.
    sparse: Option<u64>,
    threads: Option<usize>,
    rate_limit: Option<u64>,
    max_size: Option<u64>,
    salvage: bool,
    reflink: String,
    offload: bool,
    recompress: bool,
    trust_source: bool,
    verify: bool,
    digest: Option<String>,
    verify_manifest: bool,
    sha256: Option<String>,
    durable: bool,
    direct: bool,
    in_place: bool,
    target_is_zero: bool,
    bitmaps: bool,
    skip_broken_bitmaps: bool,
}

/// Where the output goes.
enum Destination {
    New(PathBuf),
    Existing(PathBuf),
    NewOn(RemoteImage),
    ExistingOn(RemoteImage),
    Object(Py<PyAny>),
}

/// The fields of `Report`, in order.
type ReportFields = (
    u64,
    u64,
    u64,
    u64,
    (Vec<(u64, u64, String)>, u64),
    Vec<String>,
    Vec<String>,
    bool,
    Option<DigestFields>,
);

/// The fields of `Digests`, in order.
type DigestFields = (String, String, Vec<(OsString, String)>);

/// Converts `sources`, each a name or file object with the arguments for opening it.
#[pyfunction]
pub(crate) fn convert(
    py: Python<'_>,
    sources: Vec<(Bound<'_, PyAny>, OpenArgs)>,
    destination: &Bound<'_, PyAny>,
    how: ConvertArgs,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<ReportFields> {
    let inputs = sources
        .iter()
        .map(|(object, opening)| Ok((Input::new(object)?, opening.options(py)?)))
        .collect::<PyResult<Vec<_>>>()?;
    let (salvage, in_place, part) = (how.salvage, how.in_place, how.part);
    let configure = how.configure(py)?;
    let destination = match (destination.extract::<PathBuf>(), RemoteImage::new(destination)?) {
        (Ok(path), _) if in_place => Destination::Existing(arguments::plain(path)),
        (Ok(path), _) => Destination::New(arguments::plain(path)),
        (_, Some(remote)) if in_place => Destination::ExistingOn(remote),
        (_, Some(remote)) => Destination::NewOn(remote),
        _ => {
            file::require_output(destination)?;
            Destination::Object(destination.clone().unbind())
        }
    };
    let out = Raised::default();
    let raised: Vec<_> = inputs.iter().map(|(input, _)| input.raised()).collect();
    let report = work::run(py, progress.as_ref(), |callback| {
        let images = inputs.into_iter().map(|(input, options)| input.open(&options));
        let mut images = images.collect::<diskimg::Result<Vec<_>>>()?;
        if let (Some((offset, len)), [image]) = (part, images.as_mut_slice()) {
            *image = image.part(offset..offset.saturating_add(len))?;
        }
        let converted = |images| Ok(configure(joined(images)?).progress(callback));
        match &destination {
            Destination::New(path) => Ok((converted(images)?.run(path)?, false)),
            Destination::Existing(path) => Ok((converted(images)?.run_existing(path)?, false)),
            Destination::NewOn(remote) => Ok((converted(images)?.run_to(remote.create()?)?, false)),
            Destination::ExistingOn(remote) => {
                let convert = converted(images)?;
                Ok((convert.run_existing_on(remote.modify()?, remote.name())?, false))
            }
            Destination::Object(object) => {
                let read: Vec<_> = images.iter().flat_map(file::files_of).collect();
                let (output, by_position) =
                    Python::attach(|py| file::output(object.bind(py), &read, out.clone()))
                        .map_err(|e| Error::io("cannot write", std::io::Error::other(e)))?;
                Ok((converted(images)?.run_to(output)?, by_position))
            }
        }
    });
    for raised in raised.iter().chain([&out]) {
        // With `salvage`, a read error is not fatal even if a file object raised it. Exceptions
        // such as `KeyboardInterrupt`, which do not derive from `Exception`, always are.
        let stops = |e: &PyErr| !salvage || !e.is_instance_of::<PyException>(py);
        if let Some(error) = raised.take().filter(stops) {
            return Err(error);
        }
    }
    let (report, by_position) = report?;
    if let (Destination::Object(object), true) = (&destination, by_position) {
        object.call_method1(py, "seek", (0, 2))?; // to the end of the image
    }
    Ok(fields(report))
}

/// Starts a conversion of the concatenated `images`. The Python code ensures that there is one.
fn joined<'a>(images: Vec<Image>) -> diskimg::Result<Convert<'a>> {
    let mut images = images.into_iter();
    let first = images.next().ok_or_else(|| Error::invalid("no source"))?;
    Ok(images.fold(Convert::new(first), Convert::append))
}

impl ConvertArgs {
    /// Returns a function that configures a conversion once its images are open.
    fn configure<'a>(
        self,
        py: Python<'_>,
    ) -> PyResult<impl FnOnce(Convert<'a>) -> Convert<'a> + Send + use<'a>> {
        let format = arguments::format(py, &self.format)?;
        let backing_options = OpenOptions::new()
            .external_files(word("external_files", &self.external_files)?)
            .limits(arguments::limits(py, &self.limits)?)
            .possible_parents(self.possible_parents.clone())
            .force_share(self.force_share);
        let reflink = word("reflink", &self.reflink)?;
        let digest = self.digest.as_deref().map(|name| word("digest", name)).transpose()?;
        Ok(move |convert: Convert<'a>| {
            let mut convert = convert
                .format(format)
                .options(arguments::options(self.options))
                .compress(self.compress)
                .backing_options(backing_options)
                .sparse(self.sparse.map_or(Sparse::Off, Sparse::Blocks))
                .salvage(self.salvage)
                .reflink(reflink)
                .offload(self.offload)
                .recompress(self.recompress)
                .trust_source(self.trust_source)
                .verify(self.verify)
                .verify_manifest(self.verify_manifest)
                .durability(if self.durable { Durability::Flushed } else { Durability::Cached })
                .caching(if self.direct { Caching::Direct } else { Caching::Buffered })
                .target_is_zero(self.target_is_zero)
                .bitmaps(self.bitmaps)
                .skip_broken_bitmaps(self.skip_broken_bitmaps);
            if let Some(name) = self.backing {
                convert = convert.backing(arguments::backing(name, self.backing_format));
            }
            if let Some(algorithm) = digest {
                convert = convert.digest(algorithm);
            }
            if let Some(digest) = &self.sha256 {
                convert = convert.source_digest(DigestAlgorithm::Sha256, digest);
            }
            if let Some(threads) = self.threads {
                convert = convert.threads(threads);
            }
            if let Some(bytes) = self.max_size {
                convert = convert.max_size(bytes);
            }
            match self.rate_limit {
                Some(rate) => convert.rate_limit(rate),
                None => convert,
            }
        })
    }
}

fn fields(report: Report) -> ReportFields {
    let salvaged =
        report.salvaged.into_iter().map(|lost| (lost.guest.start, lost.guest.end, lost.error));
    let digested = report.digests.map(|digests| {
        let files = digests.files.into_iter().map(|file| (file.path.into(), file.digest)).collect();
        (digests.algorithm.to_string(), digests.guest, files)
    });
    (
        report.guest_bytes,
        report.stored_bytes,
        report.shared_bytes,
        report.passed_bytes,
        (salvaged.collect(), report.salvaged_bytes),
        report.warnings,
        report.notes,
        report.verified,
        digested,
    )
}
