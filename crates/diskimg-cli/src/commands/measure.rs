//! `measure`: how much space an image would take in another format.

use crate::args::common::Form;
use crate::args::measure::{Job, Subject};
use crate::failure::Failure;
use crate::output::{Console, json};
use diskimg::info::Value;
use diskimg::{Format, Image};
use serde::Serialize;

/// Bytes of a bitmap's entry in a qcow2 image's directory, without its name.
const BITMAP_ENTRY: u64 = 24;

/// Measures.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let (measure, bitmaps) = match &job.subject {
        Subject::Size(size) => (diskimg::measure_size(job.format, &job.options, *size)?, None),
        Subject::Image(input) => {
            let image = input.open()?;
            let measure = diskimg::measure(job.format, &job.options, &image)?;
            console.warn(image.warnings());
            let in_effect = job.options.in_effect(job.format.options())?;
            let cluster = in_effect.size("cluster_size")?.filter(|_| job.format == Format::Qcow2);
            (measure, cluster.map_or(Ok(None), |cluster| bitmaps(&image, cluster))?)
        }
    };
    let answer =
        Answer { bitmaps, required: measure.required, fully_allocated: measure.fully_allocated };
    match job.form {
        Form::Json => json::print(console, &answer)?,
        Form::Human => console.print(&answer.for_people())?,
    }
    Ok(0)
}

/// qemu-img's keys.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    bitmaps: Option<u64>,
    required: u64,
    fully_allocated: u64,
}

impl Answer {
    fn for_people(&self) -> String {
        let mut text = format!(
            "required size: {}\nfully allocated size: {}\n",
            self.required, self.fully_allocated
        );
        if let Some(bitmaps) = self.bitmaps {
            text.push_str(&format!("bitmaps size: {bitmaps}\n"));
        }
        text
    }
}

/// Bytes that the image's bitmaps would take in a qcow2 image of these clusters;
/// `None` for an image that can hold none.
fn bitmaps(image: &Image, cluster: u64) -> Result<Option<u64>, Failure> {
    let info = image.info(0)?;
    let facts = Value::Map(info.format_specific.map(|specific| specific.data).unwrap_or_default());
    if fact(&facts, "compat") != Some(&Value::from("1.1")) {
        return Ok(None);
    }
    let Some(Value::List(bitmaps)) = fact(&facts, "bitmaps") else { return Ok(Some(0)) };
    let (mut bytes, mut directory) = (0, 0);
    for bitmap in bitmaps {
        let (Some(Value::Number(granularity @ 1..)), Some(Value::Text(name))) =
            (fact(bitmap, "granularity"), fact(bitmap, "name"))
        else {
            continue;
        };
        let broken = Value::from("in-use"); // such a bitmap is not carried over
        if matches!(fact(bitmap, "flags"), Some(Value::List(flags)) if flags.contains(&broken)) {
            continue;
        }
        let clusters = info.virtual_size.div_ceil(*granularity).div_ceil(8).div_ceil(cluster);
        let table = (clusters * 8).next_multiple_of(cluster);
        bytes = u64::saturating_add(bytes, clusters * cluster + table);
        directory += (BITMAP_ENTRY + name.len() as u64).next_multiple_of(8);
    }
    Ok(Some(bytes.saturating_add(directory.next_multiple_of(cluster))))
}

/// What is said under `key`.
fn fact<'a>(facts: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Map(facts) = facts else { return None };
    facts.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
}
