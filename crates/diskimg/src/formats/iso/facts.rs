//! The format-specific information that `info` shows for an ISO image.

use crate::iso::boot::{CatalogEntry, Loader};
use crate::iso::{IsoInfo, SessionInfo, VolumeDescriptor};
use crate::partition::{ApmPartition, GptPartition, MbrPartition};
use crate::report::info::Value;

type Facts = Vec<(&'static str, Value)>;

/// Returns the keys and values in display order.
pub(super) fn of(info: &IsoInfo) -> Facts {
    let namespaces = info.namespaces.iter().map(|namespace| text(&namespace.to_string()));
    let mut facts = vec![
        ("label", text(&info.label)),
        ("namespaces", Value::List(namespaces.collect())),
        ("volume-size", info.volume_bytes.into()),
    ];
    if !info.volumes.is_empty() {
        facts.push(("volumes", list(&info.volumes, volume)));
    }
    if let Some(boot) = &info.boot {
        facts.push(("boot-entries", list(&boot.entries, boot_entry)));
    }
    let area = &info.system_area;
    if let Some(loader) = area.loader {
        let name = match loader {
            Loader::Isohybrid { .. } => "isohybrid",
            Loader::Grub2 { .. } => "grub2",
        };
        facts.push(("disk-loader", text(name)));
    }
    if let Some(mbr) = &area.mbr {
        facts.push(("mbr-partitions", list(&mbr.partitions, mbr_partition)));
    }
    if let Some(gpt) = &area.gpt {
        facts.push(("gpt-partitions", list(&gpt.partitions, gpt_partition)));
    }
    if let Some(apm) = &area.apm {
        facts.push(("apm-partitions", list(&apm.partitions, apm_partition)));
    }
    // Every image has one session; only several are worth showing.
    if info.sessions.len() > 1 {
        facts.push(("sessions", list(&info.sessions, session)));
    }
    facts
}

fn boot_entry(entry: &CatalogEntry) -> Facts {
    vec![
        ("platform", text(&entry.platform.to_string())),
        ("bootable", entry.bootable.into()),
        ("emulation", text(&entry.media.to_string())),
        ("offset", entry.start().into()),
        ("load-size", entry.load_bytes().unwrap_or_default().into()),
    ]
}

fn mbr_partition(partition: &MbrPartition) -> Facts {
    vec![
        ("number", u64::from(partition.number).into()),
        ("type", text(&format!("{:#04x}", partition.kind))),
        ("offset", (u64::from(partition.first_sector) * 512).into()),
        ("size", (u64::from(partition.sectors) * 512).into()),
    ]
}

fn gpt_partition(partition: &GptPartition) -> Facts {
    let sectors = partition.last_sector.saturating_sub(partition.first_sector).saturating_add(1);
    vec![
        ("number", u64::from(partition.number).into()),
        ("type", text(&partition.kind.to_string())),
        ("name", text(&partition.name)),
        ("offset", partition.first_sector.saturating_mul(512).into()),
        ("size", sectors.saturating_mul(512).into()),
    ]
}

fn apm_partition(partition: &ApmPartition) -> Facts {
    vec![
        ("number", u64::from(partition.number).into()),
        ("type", text(&partition.kind)),
        ("name", text(&partition.name)),
        ("first-block", u64::from(partition.first_block).into()),
        ("blocks", u64::from(partition.blocks).into()),
    ]
}

fn session(session: &SessionInfo) -> Facts {
    vec![("first-sector", session.start_sector.into())]
}

fn volume(volume: &VolumeDescriptor) -> Facts {
    let mut facts = vec![
        ("kind", text(volume.kind.name())),
        ("label", text(&volume.volume_id)),
        ("size", volume.bytes().into()),
    ];
    let texts = [
        ("system", &volume.system_id),
        ("volume-set", &volume.volume_set_id),
        ("publisher", &volume.publisher),
        ("preparer", &volume.preparer),
        ("application", &volume.application),
    ];
    facts.extend(texts.iter().filter(|(_, t)| !t.is_empty()).map(|(key, t)| (*key, text(t))));
    let moments = [("created", volume.created), ("modified", volume.modified)];
    facts.extend(moments.iter().filter_map(|(key, t)| Some((*key, text(&(*t)?.to_string())))));
    facts
}

fn list<T>(items: &[T], facts: impl Fn(&T) -> Facts) -> Value {
    Value::List(items.iter().map(|item| Value::Map(facts(item))).collect())
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}
