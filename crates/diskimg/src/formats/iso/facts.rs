//! What `info` shows of an ISO image.

use crate::iso::{IsoInfo, VolumeDescriptor};
use crate::vocabulary::info::Value;

type Facts = Vec<(&'static str, Value)>;

/// The facts, in display order.
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
    facts
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
