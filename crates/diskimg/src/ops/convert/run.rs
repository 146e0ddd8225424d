//! Runs a conversion: from the settings to the completed output.

use super::input::Input;
use super::selection::Selection;
use super::share::{Reflink, Sharing};
use super::{
    Digests, Report, SECTOR, Settings, Sparse, encode, hash, lookahead, place, plan, read_back,
    salvage, throttle, transfer,
};
use crate::error::{Error, Result};
use crate::model::extent::Kind;
use crate::model::image::Image;
use crate::model::target::{CreateRequest, MeasureRequest, Target, TargetSpec};
use crate::ops::new_image::{
    max_size_cap, open_backing, protect_backing, set_allocation_hints, take_backing, whole_size,
};
use crate::ops::pipeline;
use crate::ops::plan::{self as planning, Plan};
use crate::ops::progress::{Callback, limited as limited_to, report};
use crate::remedy::Remedy;
use crate::storage::os;
use crate::storage::output::{Durability, Output, Planned};
use crate::storage::sink::{Cap, CappedSink, Sink};
use crate::storage::source::HostFileId;
use crate::storage::threads;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

const OWN_FILE: &str = "the output is one of the source's own files";

const INCOMPLETE: &str = "cannot complete the output";

/// What a conversion writes to.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) spec: Box<dyn TargetSpec>,
    /// The image that the source is compared with.
    pub(super) backing: Option<Image>,
    /// For an existing image: the length of the source in bytes. The rest of the input is the data
    /// that follows it in the image.
    pub(super) existing: Option<u64>,
    /// The part of the disk that is written, if it is not the whole one.
    pub(super) selection: Option<Selection>,
}

impl Settings<'_> {
    /// Concatenates the images: at sector boundaries as qemu-img does, or at the alignment that an
    /// appliance format requires of its disks.
    pub(super) fn join(&self, images: Vec<Image>) -> Result<Input> {
        let appliance = self.format.driver().appliance.as_ref();
        images.iter().try_for_each(Image::require_data)?;
        let bitmaps = self.open_bitmaps(&images)?;
        let alignment = appliance.map_or(SECTOR, |appliance| appliance.alignment);
        let mut input = Input::concatenate(images, alignment)?;
        input.bitmaps = bitmaps;
        Ok(input)
    }

    /// Runs the conversion. `size` is that of an existing target, whose data beyond the end of the
    /// source is kept; without it the new disk has the size of the source.
    pub(super) fn run(self, input: Input, output: Output, size: Option<u64>) -> Result<Report> {
        self.run_prepared(input, output, |settings, input, output| {
            settings.prepare_new(input, output, size)
        })
    }

    /// Plans the conversion: prepares it, and lets the format name its files.
    pub(super) fn plan(
        mut self,
        mut input: Input,
        planned: Planned,
        size: Option<u64>,
    ) -> Result<Plan> {
        let files = planned.files();
        let mut output = Output::to_place(Box::new(planned));
        let name = output.name();
        let mut plan = || {
            let (mut spec, backing) = self.prepare(&mut input, &mut output, size)?;
            self.copy_bitmaps(&mut input, &mut *spec)?;
            self.require_shareable(self.is_verbatim(&*spec, backing.is_some()))?;
            drop(spec.start(&mut output)?);
            let is_allocated = self.is_allocated();
            let required = if is_allocated { spec.size() } else { self.measure(&input, &*spec)? };
            Ok((spec.size(), required))
        };
        let (guest_bytes, required_bytes) = plan().map_err(|e: Error| e.in_file(name))?;
        Ok(self.planned(&input, &files, guest_bytes, required_bytes))
    }

    /// Returns the plan of a conversion whose `files` are known.
    pub(super) fn planned(
        &self,
        input: &Input,
        files: &crate::storage::output::Files,
        guest_bytes: u64,
        required_bytes: u64,
    ) -> Plan {
        let files = crate::storage::lock(files).clone();
        Plan {
            format: self.format,
            guest_bytes,
            required_bytes,
            free_bytes: planning::free_bytes(&files),
            backing: self.backing.as_ref().map(|backing| backing.name.clone()),
            files,
            warnings: self.warnings(input),
        }
    }

    /// Returns warnings about the source, and about what the output cannot record of it.
    fn warnings(&self, input: &Input) -> Vec<String> {
        let lost = input.other_sector_size().filter(|&logical| {
            // A child has the sectors of its parent.
            let recorded = self.options.size("logical_sector_size").ok().flatten();
            recorded != Some(logical) && self.backing.is_none()
        });
        let lost = lost.map(|logical| {
            format!(
                "the disk has logical sectors of {logical} bytes, which the output does not record \
                 (VHDX does with the option logical_sector_size={logical}): a guest that uses it \
                 with sectors of 512 bytes does not find its partitions"
            )
        });
        input.warnings().chain(lost).collect()
    }

    /// Prepares a conversion in which the image is written as a whole; see [`run`](Self::run).
    pub(super) fn prepare_new(
        &mut self,
        input: &mut Input,
        output: &mut Output,
        size: Option<u64>,
    ) -> Result<Prepared> {
        let (spec, backing) = self.prepare(input, output, size)?;
        self.expect_len(input, &*spec, output)?;
        Ok(Prepared { spec, backing, existing: None, selection: None })
    }

    /// Runs the conversion into what `prepare` returns.
    pub(super) fn run_prepared(
        mut self,
        mut input: Input,
        mut output: Output,
        prepare: impl FnOnce(&mut Self, &mut Input, &mut Output) -> Result<Prepared>,
    ) -> Result<Report> {
        let name = output.name();
        let cap = self.cap(&input);
        if let Some(cap) = &cap {
            output = output.capped(Arc::clone(cap));
        }
        output.set_caching(self.caching).map_err(|e| {
            Error::output("cannot bypass the page cache", e).with_remedy(Remedy::UsePageCache)
        })?;
        let prepared = prepare(&mut self, &mut input, &mut output);
        let limited = self.progress.zip(output.transferred());
        let limited = limited.map(|(callback, transferred)| limited_to(callback, transferred));
        let progress = limited.as_ref().map(|limited| limited as Callback<'_>).or(self.progress);
        let settings = Settings { progress, ..self };
        let outcome = prepared.and_then(|mut prepared| {
            settings.copy_bitmaps(&mut input, &mut *prepared.spec)?;
            let target = prepared.spec.start(&mut output)?;
            let (mut done, lost) =
                settings.transfer(&input, &prepared, target, &output, cap.as_ref())?;
            settings.flush(&input, &output)?;
            settings.read_back(&input, &output, &prepared, &lost, &mut done)?;
            // The last opportunity to cancel.
            report(progress, input.size(), input.size())?;
            done.notes = output.notes();
            Ok(done)
        });
        let outcome = outcome.map_err(|e| e.with_loss_of(&output)).and_then(|done| {
            output.publish(settings.durability).map_err(|e| Error::output(INCOMPLETE, e))?;
            Ok(done)
        });
        outcome.map_err(|e| e.in_file(name))
    }

    /// Flushes the output, which can be cancelled.
    fn flush(&self, input: &Input, output: &Output) -> Result<()> {
        let mut cancelled = None;
        let flushed = output.flush_unless(self.durability, &mut || {
            cancelled = report(self.progress, input.size(), input.size()).err();
            cancelled.is_some()
        });
        match (flushed, cancelled) {
            (Err(_), Some(cancelled)) => Err(cancelled),
            (flushed, _) => flushed.map_err(|e| Error::output(INCOMPLETE, e)),
        }
    }

    /// Returns the limit on what is written, if there is one.
    fn cap(&self, input: &Input) -> Option<Arc<Cap>> {
        let images = (0..input.images()).map(|index| input.image(index));
        let of_images = images.map(|image| image.limits(0).output_bytes).min();
        max_size_cap(self.max_size, of_images.unwrap_or(u64::MAX))
    }

    /// Returns the number of bytes that an output without compressed data takes.
    fn measure(&self, input: &Input, spec: &dyn TargetSpec) -> Result<u64> {
        /// Guest bytes whose extents are looked up at a time.
        const WINDOW: u64 = 128 << 20;
        let mut data = |each: &mut dyn FnMut(Range<u64>)| {
            let mut at = 0;
            while at < input.size() {
                let end = input.next_window(at, input.size(), WINDOW);
                for run in input.runs(at..end)? {
                    if matches!(run.extent.kind, Kind::Data(_) | Kind::Encoded(_)) {
                        each(run.at);
                    }
                }
                at = end;
            }
            Ok(())
        };
        let Some(measure) = self.format.driver().measure else {
            let mut len = 0;
            data(&mut |range| len += range.end - range.start)?;
            return Ok(len);
        };
        let (size, options) = (spec.size(), &self.options);
        Ok(measure(&mut MeasureRequest { size, options, source: None, data: &mut data })?.required)
    }

    /// Tells the output how many bytes it will get at most. For a file, only if that is known without
    /// reading them and if it matters: if free space may be too short to keep an existing file until
    /// the new one is complete.
    fn expect_len(&self, input: &Input, spec: &dyn TargetSpec, output: &mut Output) -> Result<()> {
        let Some(path) = output.path() else {
            // A store decides by it how it divides the image. Metadata and data that does not
            // compress take less than this.
            let len = spec.size().saturating_add(spec.size() / 16).saturating_add(16 << 20);
            let cannot = |e| Error::output("cannot prepare the output", e);
            return output.expect_len(len).map_err(cannot);
        };
        let is_file = std::fs::metadata(path).is_ok_and(|found| found.is_file());
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
        let free = os::free_space(directory.unwrap_or(Path::new(".")));
        // The length of compressed data is known when it has been compressed.
        let is_known = spec.encoder().is_none();
        if !is_file || !is_known || free.is_none_or(|free| free >= spec.size()) {
            return Ok(());
        }
        if self.reflink != Reflink::Never && shares_any(input, &*output.sink())? {
            return Ok(());
        }
        let len = match self.is_allocated() {
            true => spec.size(),
            false => self.measure(input, spec)?,
        };
        let cannot = |e| Error::output("cannot overwrite the existing file", e);
        output.expect_len(len).map_err(cannot)
    }

    /// Returns true if space is allocated for zeros, too.
    fn is_allocated(&self) -> bool {
        self.sparse == Sparse::Off
            || matches!(self.options.get("preallocation"), Some("falloc" | "full"))
    }

    /// Verifies and hashes the complete files, as far as the settings ask for it. The guest ranges
    /// `lost` are zeros.
    fn read_back(
        &self,
        input: &Input,
        output: &Output,
        prepared: &Prepared,
        lost: &[Range<u64>],
        done: &mut Report,
    ) -> Result<()> {
        // Output to a pipe has a digest of the guest's bytes, but no file that could be read back.
        if !self.verify && (done.digests.is_none() || output.require_readable().is_err()) {
            return Ok(());
        }
        let files = output
            .read_back()
            .map_err(|e| Error::output("cannot reopen the output to read it back", e))?;
        if self.verify {
            read_back::verify(
                self,
                input,
                &*prepared.spec,
                &files,
                prepared.backing.as_ref(),
                done.guest_bytes,
                lost,
            )?;
            done.verified = true;
        }
        if let Some(digests) = &mut done.digests {
            let tick = || report(self.progress, input.size(), input.size());
            digests.files = hash::of_files(digests.algorithm, files, &tick)?;
        }
        Ok(())
    }

    /// Prepares what concerns the source and an existing image, whose options are kept.
    pub(super) fn prepare_existing(&mut self, input: &Input) -> Result<()> {
        self.sparse = self.sparse.normalized()?;
        self.options.check(self.format.driver().options)?;
        self.verify_source(input)
    }

    fn verify_source(&self, input: &Input) -> Result<()> {
        if let Some((algorithm, expected)) = &self.source_digest {
            let tick = || report(self.progress, 0, input.size());
            let file = hash::of_files(*algorithm, vec![input.only_file()?], &tick)?;
            let digest = &file[0].digest;
            if digest != expected {
                let message = format!("its {algorithm} digest is {digest}; expected {expected}");
                return Err(Error::corrupt("file", message).in_file(&file[0].path));
            }
        }
        match self.verify_manifest {
            true => input.verify_manifests(&mut || report(self.progress, 0, input.size())),
            false => Ok(()),
        }
    }

    /// Specifies the target and opens its backing file.
    fn prepare(
        &mut self,
        input: &mut Input,
        output: &mut Output,
        size: Option<u64>,
    ) -> Result<(Box<dyn TargetSpec>, Option<Image>)> {
        let create = self.format.creator()?;
        self.sparse = self.sparse.normalized()?;
        if self.verify {
            let cannot_verify = |e| Error::output("the output cannot be verified", e);
            output.require_readable().map_err(cannot_verify)?;
        }
        self.verify_source(input)?;
        let driver = self.format.driver();
        if let Some(require) = driver.require {
            if input.images() > 1 {
                return Err(Error::invalid(format!(
                    "{} images cannot be concatenated into one {} image",
                    input.images(),
                    self.format.name()
                )));
            }
            require(input.image(0))?;
        }
        self.options.check(driver.options)?;
        let requested = self.options.size("size")?;
        if let Some(requested) = requested.filter(|&requested| requested < input.size()) {
            return Err(Error::invalid(format!(
                "size={requested} is smaller than the source, which has {} bytes",
                input.size()
            )));
        }
        let is_existing = size.is_some();
        let size = whole_size(self.format, size.or(requested).unwrap_or(input.size()))?;
        if !is_existing {
            input.pad_to(size);
        }
        set_allocation_hints(output, &self.options)?;
        take_backing(&mut self.options, &mut self.backing);
        let backing = match &mut self.backing {
            Some(backing) => {
                let image = open_backing(backing, output.path(), &self.backing_options)?;
                protect_backing(output, &image)?;
                Some(image)
            }
            None => None,
        };
        if output.path().is_some_and(|path| input.contains(path)) {
            let message = "the output would be a part of the source, which is a directory";
            return Err(Error::invalid(message).hint("write it to another directory"));
        }
        // The main file was checked before; the names of companion files are not known yet.
        output.protect(input.identities(), OWN_FILE);
        output.remove_leftovers();
        let request = CreateRequest {
            size,
            options: &self.options,
            backing: self.backing.clone(),
            compress: self.compress,
        };
        let spec = match self.format.driver().appliance.as_ref() {
            Some(appliance) => {
                self.require_appliance(input, requested)?;
                (appliance.create)(request, &input.disks(driver.sector)?)?
            }
            None => create(request)?,
        };
        Ok((spec, backing))
    }

    /// Verifies that the settings can be applied to an appliance.
    fn require_appliance(&self, input: &Input, size: Option<u64>) -> Result<()> {
        if self.offload {
            return Err(Error::invalid(
                "the disks of an appliance are compressed and share nothing",
            )
            .with_remedy(Remedy::LeaveOutOffload));
        }
        if self.digest.is_some() && input.images() > 1 {
            return Err(Error::invalid("a digest can be computed for a single disk only"));
        }
        if size.is_some() && input.images() > 1 {
            return Err(Error::invalid(format!(
                "size= applies to a single disk, but there are {}",
                input.images()
            )));
        }
        Ok(())
    }

    /// Determines what can be shared or copied by the kernel. Only a target that stores clusters
    /// `verbatim` allows it.
    fn sharing(
        &self,
        verbatim: bool,
        input: &Input,
        spec: &dyn TargetSpec,
        target: &dyn Target,
    ) -> Result<Sharing> {
        self.require_shareable(verbatim)?;
        let reflink = match self.reflink {
            // Only data that is read can be salvaged.
            Reflink::Auto if self.salvage => Reflink::Never,
            reflink => reflink,
        };
        if !verbatim {
            return Ok(Sharing::none());
        }
        Sharing::detect(reflink, self.offload, input, target, spec.alignment())
    }

    /// Returns true if clusters are stored as they are, so that they can be shared.
    fn is_verbatim(&self, spec: &dyn TargetSpec, has_backing: bool) -> bool {
        spec.encoder().is_none() && !has_backing && self.sparse != Sparse::Off
    }

    fn require_shareable(&self, verbatim: bool) -> Result<()> {
        if verbatim || self.reflink != Reflink::Always {
            return Ok(());
        }
        Err(Error::invalid(
            "an output that is compressed, fully allocated or based on a backing file shares \
             nothing with the source",
        )
        .with_remedy(Remedy::AllowCopying))
    }

    /// Returns the plan of the whole input, and the encoding of its tasks by up to `workers`
    /// threads. Neither needs an output.
    pub(super) fn encoding<'e>(
        &self,
        input: &'e Input,
        backing: Option<&'e Image>,
        spec: &dyn TargetSpec,
        salvaged: &'e salvage::SalvageLog,
        sharing: &'e Sharing,
        workers: usize,
    ) -> (plan::Plan<'e>, encode::Encoding<'e>) {
        let quantum = spec.quantum();
        // The encoders are made here because the workers cannot borrow the target.
        let encoders: Vec<_> = (0..workers).map_while(|_| spec.encoder()).collect();
        // Data that is compared with a backing file, digested or salvaged must be decoded.
        let passes = !(self.recompress || self.salvage || backing.is_some());
        let passes = passes && !encoders.is_empty() && !spec.wants_digest();
        // Each cluster is compressed alone, so each is detected as zero alone, as in QEMU.
        let sparse = match self.sparse {
            Sparse::Blocks(block) if !encoders.is_empty() => Sparse::Blocks(block.min(quantum)),
            sparse => sparse,
        };
        let plan = plan::Plan::new(input, backing, quantum, sparse, salvaged, sharing);
        let encoding = encode::Encoding {
            input,
            backing,
            quantum,
            sparse,
            encoders: Mutex::new(encoders),
            salvaged,
            digests: spec.wants_digest(),
            encodes_zeros: spec.encodes_zeros(),
            sharing,
            passes,
            decodes_passed: self.digest.is_some() || !self.trust_source,
            passed: AtomicU64::new(0),
            spare: Mutex::new(Vec::new()),
            units: (0..input.images()).map(|_| Arc::default()).collect(),
        };
        (plan.passes(passes), encoding)
    }

    /// Transfers the guest's bytes and completes the target. Returns, if they are to be verified, also
    /// all guest ranges that were replaced by zeros.
    fn transfer(
        &self,
        input: &Input,
        prepared: &Prepared,
        mut target: Box<dyn Target>,
        output: &Output,
        cap: Option<&Arc<Cap>>,
    ) -> Result<(Report, Vec<Range<u64>>)> {
        let selection = prepared.selection.as_ref();
        let compared = selection.and_then(Selection::compared);
        let (spec, backing) = (&*prepared.spec, compared.or(prepared.backing.as_ref()));
        let source_len = prepared.existing.unwrap_or(input.size());
        let salvaged = salvage::SalvageLog::new(self.salvage, self.verify);
        let workers = self.threads.unwrap_or_else(pipeline::default_threads);
        let threads = pipeline::Threads {
            io: pipeline::IoStage::of(input.io()),
            ..pipeline::Threads::of_workers(workers)
        };
        let verbatim = self.is_verbatim(spec, backing.is_some());
        let sharing = self.sharing(verbatim, input, spec, &*target)?;
        let (plan, encoding) =
            self.encoding(input, backing, spec, &salvaged, &sharing, threads.workers);
        let mut plan = plan.select(selection);
        let in_flight = place::InFlight::default();
        let named = |sink: &Arc<dyn Sink>| transfer::OutputFile {
            sink: match cap.filter(|_| prepared.existing.is_some()) {
                // The files of an existing image are not those of `output`.
                Some(cap) => Arc::new(CappedSink::new(Arc::clone(sink), Arc::clone(cap))),
                None => Arc::clone(sink),
            },
            path: output.path_of(sink).map(Path::to_owned),
            written: AtomicU64::new(0),
        };
        let job = transfer::Transfer {
            encoding,
            shared: AtomicU64::new(0),
            files: target.files().iter().map(named).collect(),
            in_flight: &in_flight,
            flushes: self.durability == Durability::Flushed,
            sequential: spec.sequential() || target.files().iter().any(|f| f.is_sequential()),
        };
        let mut placer = self.placer(input, &mut *target, backing.is_some(), &in_flight);
        placer.existing = prepared.existing.is_some();
        placer.keeps_same = selection.is_some();
        placer.is_zero = prepared.existing.is_some() && self.target_is_zero;
        placer.hash =
            self.digest.map(|algorithm| hash::GuestHash::new(algorithm, input, source_len));
        placer.report_progress(0)?;
        let lookahead = lookahead::Lookahead::new(input);
        std::thread::scope(|scope| {
            let _guard = lookahead.guard();
            if threads.io.is_some() {
                // Without the thread, the plan reads the tables itself.
                let _ = threads::spawn(scope, || lookahead.run());
            }
            let plan = || {
                lookahead.advance(plan.position());
                plan.next_task()
            };
            pipeline::run(&job, threads, plan, |done| placer.place(done))
        })?;
        placer.report_progress(input.size())?;
        let (stored_bytes, digest) = (placer.stored, placer.digest);
        let hash = placer.hash.map(hash::GuestHash::finish);
        let digests = self.digest.zip(hash).map(|(algorithm, guest)| Digests {
            algorithm,
            guest,
            files: Vec::new(),
        });
        let shared_bytes = job.shared.into_inner();
        let passed_bytes = job.encoding.passed.into_inner();
        target.take_digest(digest);
        target.finish()?;
        let lost = salvaged.into_ordered();
        let report = Report {
            guest_bytes: source_len,
            stored_bytes,
            shared_bytes,
            passed_bytes,
            salvaged: lost.listed,
            salvaged_bytes: lost.bytes,
            notes: Vec::new(),
            warnings: self.warnings(input),
            verified: false,
            digests,
        };
        Ok((report, lost.all))
    }

    /// Returns the placement of the tasks of `input`. An overlay has a backing file.
    pub(super) fn placer<'p>(
        &self,
        input: &'p Input,
        target: &'p mut dyn Target,
        overlay: bool,
        in_flight: &'p place::InFlight,
    ) -> place::Placer<'p>
    where
        Self: 'p,
    {
        place::Placer {
            target,
            overlay,
            existing: false,
            keeps_same: false,
            is_zero: false,
            in_flight,
            total: input.size(),
            stored: 0,
            digest: 0,
            hash: None,
            throttle: throttle::Throttle::new(self.rate_limit),
            progress: self.progress,
        }
    }
}

/// Returns true if the output can share blocks with a file of the source, which take no space.
fn shares_any(input: &Input, sink: &dyn Sink) -> Result<bool> {
    let images = (0..input.images()).map(|index| input.image(index));
    for file in images.flat_map(Image::layers).flat_map(|layer| layer.files()) {
        let block = sink.shareable_block(&**file);
        if block.map_err(|e| Error::io("cannot share data with the source", e))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Verifies that `existing`, the file that the output replaces or overwrites, is none of the
/// source's own files.
///
/// # Errors
/// Returns [`Refused`](crate::ErrorKind::Refused) if it is one of them.
pub(super) fn refuse_own_files(
    input: &Input,
    existing: Option<HostFileId>,
    name: &Path,
) -> Result<()> {
    if existing.is_some_and(|id| input.identities().any(|own| own.shares_data_with(id))) {
        return Err(Error::refused(OWN_FILE)
            .in_file(name)
            .hint("convert to another name, then rename it"));
    }
    Ok(())
}
