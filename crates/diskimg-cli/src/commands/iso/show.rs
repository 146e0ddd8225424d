//! `iso info` and `iso boot`: shows the properties and boot information of an ISO image.

use crate::args::common::OutputFormat;
use crate::args::iso::show::Job;
use crate::commands::iso::open_confined;
use crate::confine::Rules;
use crate::failure::Failure;
use crate::output::{Console, json};
use diskimg::iso::boot::{BootCatalog, SystemArea};
use diskimg::iso::{IsoInfo, VolumeDescriptor};
use diskimg::printable;
use serde::Serialize;
use std::fmt::{Display, Write};

/// Prints the information.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = open_confined(&Rules::new(), &job.input, console)?;
    if job.boot_only {
        let (catalog, area) = (image.boot_catalog()?, image.system_area()?);
        match job.output {
            OutputFormat::Human => console.print(&boot(catalog.as_ref(), &area))?,
            OutputFormat::Json => {
                json::print(console, &Boot { boot: catalog.as_ref(), system_area: &area })?;
            }
        }
        return Ok(0);
    }
    let info = image.info()?;
    match job.output {
        OutputFormat::Human => console.print(&text(&info))?,
        OutputFormat::Json => json::print(console, &info)?,
    }
    Ok(0)
}

/// The JSON output of `iso boot`, with the same keys as `iso info`.
#[derive(Serialize)]
struct Boot<'a> {
    boot: Option<&'a BootCatalog>,
    system_area: &'a SystemArea,
}

fn line(text: &mut String, key: &str, value: impl Display) {
    let value = value.to_string();
    if !value.is_empty() {
        let _ = writeln!(text, "{key}: {}", printable(&value));
    }
}

fn text(info: &IsoInfo) -> String {
    let mut text = String::new();
    line(&mut text, "label", &info.label);
    line(&mut text, "namespace", info.namespace.title());
    let all: Vec<_> = info.namespaces.iter().map(|namespace| namespace.title()).collect();
    line(&mut text, "namespaces", all.join(", "));
    line(&mut text, "image size", format!("{} bytes", info.image_bytes));
    line(&mut text, "volume size", format!("{} bytes", info.volume_bytes));
    if let Some(volume) = info.volumes.first() {
        identifiers(&mut text, volume);
    }
    for (number, session) in info.sessions.iter().enumerate().filter(|_| info.sessions.len() > 1) {
        line(
            &mut text,
            &format!("session {}", number + 1),
            format!("sector {}", session.start_sector),
        );
    }
    text.push_str(&boot(info.boot.as_ref(), &info.system_area));
    text
}

fn identifiers(text: &mut String, volume: &VolumeDescriptor) {
    line(text, "system", &volume.system_id);
    line(text, "volume set", &volume.volume_set_id);
    line(text, "publisher", &volume.publisher);
    line(text, "preparer", &volume.preparer);
    line(text, "application", &volume.application);
    line(text, "created", volume.created.map(|time| time.to_string()).unwrap_or_default());
    line(text, "modified", volume.modified.map(|time| time.to_string()).unwrap_or_default());
}

fn boot(catalog: Option<&BootCatalog>, area: &SystemArea) -> String {
    let mut text = String::new();
    match catalog {
        None => line(&mut text, "boot catalog", "none"),
        Some(catalog) => {
            line(&mut text, "boot catalog", format!("at {}", catalog.offset));
            for (number, entry) in catalog.entries.iter().enumerate() {
                let bootable = if entry.bootable { "" } else { ", not bootable" };
                let value = format!(
                    "{}, {}, sector {}, loads {} sectors of 512 bytes{bootable}",
                    entry.platform, entry.media, entry.start_sector, entry.load_sectors
                );
                line(&mut text, &format!("boot entry {}", number + 1), value);
            }
        }
    }
    if let Some(mbr) = &area.mbr {
        let code = if mbr.has_code { ", with code" } else { "" };
        line(&mut text, "MBR", format!("disk {:#010x}{code}", mbr.disk_id));
        for part in &mbr.partitions {
            let active = if part.active { ", active" } else { "" };
            let value = format!(
                "type {:#04x}, from sector {}, {} sectors{active}",
                part.kind, part.first_sector, part.sectors
            );
            line(&mut text, &format!("MBR partition {}", part.number), value);
        }
    }
    if let Some(gpt) = &area.gpt {
        line(&mut text, "GPT", format!("disk {}", gpt.disk_id));
        for part in &gpt.partitions {
            let value = format!(
                "type {}, sectors {} to {}, {:?}",
                part.kind, part.first_sector, part.last_sector, part.name
            );
            line(&mut text, &format!("GPT partition {}", part.number), value);
        }
    }
    if let Some(apm) = &area.apm {
        line(&mut text, "Apple partition map", format!("blocks of {} bytes", apm.block_bytes));
        for part in &apm.partitions {
            let value = format!(
                "{}, from block {}, {} blocks, {:?}",
                part.kind, part.first_block, part.blocks, part.name
            );
            line(&mut text, &format!("Apple partition {}", part.number), value);
        }
    }
    let oddities = catalog.iter().flat_map(|catalog| &catalog.oddities).chain(&area.oddities);
    for oddity in oddities {
        line(&mut text, "odd", oddity);
    }
    text
}
