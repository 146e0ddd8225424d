//! Measures conversions to raw from storage that answers slowly: guest bytes per second, number of
//! requests and bytes requested, at several latencies, with and without reading ahead.
//!
//! The storage is simulated: a file in memory behind a latency, 85 MB/s per request and 1.25 GB/s
//! in total. "direct" reads each range when it is needed, with a request for each thread.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::{Cached, FileSource, IoHints, Retrying};
use diskimg::{Convert, Format, OpenOptions, Output, Source};
use diskimg_testkit::disk::Fill;
use diskimg_testkit::slow::{Network, SlowSource};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Measures conversions from storage that answers slowly")]
struct Args {
    /// Size of the disk in MiB, three quarters of which are data.
    #[arg(long, default_value_t = 512)]
    size: u64,
    /// Latencies in milliseconds.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 30, 100])]
    latency: Vec<u64>,
    /// Number of runs, of which the median is printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Also reads each range when it is needed, which takes long.
    #[arg(long)]
    direct: bool,
}

/// One source image.
struct Image {
    name: &'static str,
    path: PathBuf,
    format: Format,
}

/// The result of one conversion.
#[derive(Clone, Copy)]
struct Run {
    seconds: f64,
    requests: u64,
    bytes: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let dir = tempfile::tempdir()?;
    let images = images(dir.path(), args.size)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "| image | latency | reads | MB/s of guest | requests | MB requested |")?;
    writeln!(out, "|---|---:|---|---:|---:|---:|")?;
    for image in &images {
        for &latency in &args.latency {
            let network = Network::object_store(Duration::from_millis(latency));
            let modes = [("ahead", network.hints), ("direct", IoHints::default())];
            for (name, hints) in modes.into_iter().take(if args.direct { 2 } else { 1 }) {
                let network = Network { hints, ..network };
                let mut runs = Vec::new();
                for _ in 0..args.runs {
                    runs.push(convert(image, network)?);
                }
                runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
                let Run { seconds, requests, bytes } = runs[runs.len() / 2];
                let speed = (args.size << 20) as f64 / seconds / 1e6;
                let requested = bytes as f64 / 1e6;
                writeln!(
                    out,
                    "| {} | {latency} ms | {name} | {speed:.0} | {requests} | {requested:.0} |",
                    image.name
                )?;
                out.flush()?;
            }
        }
    }
    Ok(())
}

fn convert(image: &Image, network: Network) -> Result<Run> {
    let file = Arc::new(FileSource::open(&image.path)?);
    let slow = Arc::new(SlowSource::new(file, network));
    let source: Arc<dyn Source> = match network.hints.in_flight {
        1 => Arc::clone(&slow) as _,
        _ => Arc::new(Cached::new(Arc::new(Retrying::new(Arc::clone(&slow) as _)))),
    };
    let started = Instant::now();
    let opened = OpenOptions::new().format(image.format).open_source(source, image.name)?;
    let sink = Arc::new(MemorySink::new());
    Convert::new(opened).run_to(Output::to_sink(sink))?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Run { seconds, requests: slow.requests(), bytes: slow.bytes() })
}

/// Makes the images with qemu-img from a disk of text-like and incompressible data.
fn images(dir: &Path, mib: u64) -> Result<Vec<Image>> {
    let raw = dir.join("disk.raw");
    let mut file = std::fs::File::create(&raw)?;
    let chunks = [Fill::Words(1), Fill::Noise(2), Fill::Words(3)].map(|fill| fill.bytes(1 << 20));
    for number in 0..mib {
        match chunks.get((number % 4) as usize) {
            Some(chunk) => file.write_all(chunk)?,
            None => file.write_all(&[0; 1 << 20])?,
        }
    }
    drop(file);
    let mut images = Vec::new();
    let mut make = |name, arguments: &[&str], format| -> Result<()> {
        let path = dir.join(format!("{name}.img"));
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw"]).args(arguments).args([&raw, &path]);
        ensure!(command.status().context("qemu-img")?.success(), "qemu-img failed");
        images.push(Image { name, path, format });
        Ok(())
    };
    make("qcow2", &["-O", "qcow2"], Format::Qcow2)?;
    make("qcow2, zlib", &["-O", "qcow2", "-c"], Format::Qcow2)?;
    let zstd = &["-O", "qcow2", "-c", "-o", "compression_type=zstd"];
    make("qcow2, zstd", zstd, Format::Qcow2)?;
    make("qcow2, 4 KiB clusters", &["-O", "qcow2", "-o", "cluster_size=4k"], Format::Qcow2)?;
    let stream = &["-O", "vmdk", "-o", "subformat=streamOptimized"];
    make("vmdk, streamOptimized", stream, Format::Vmdk)?;
    images.push(Image { name: "raw", path: raw, format: Format::Raw });
    Ok(images)
}
