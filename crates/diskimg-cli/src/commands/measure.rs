//! `measure`: how much space an image would take in another format.

use crate::args::common::Form;
use crate::args::measure::{Job, Subject};
use crate::failure::Failure;
use crate::output::{Console, json};
use diskimg::info::Value;
use diskimg::{Format, Image};
use serde::Serialize;

/// Measures.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let (measure, bitmaps) = match &job.subject {
        Subject::Size(size) => (diskimg::measure_size(job.format, &job.options, *size)?, None),
        Subject::Image(input) => {
            let image = input.open()?;
            let measure = diskimg::measure(job.format, &job.options, &image)?;
            (measure, if job.format == Format::Qcow2 { bitmaps(&image)? } else { None })
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

/// Bytes that the image's bitmaps would take in a qcow2 image: stated for images
/// that can hold some and hold none, left out where we would have to guess.
fn bitmaps(image: &Image) -> Result<Option<u64>, Failure> {
    let info = image.info(0)?;
    let facts = info.format_specific.map(|specific| specific.data).unwrap_or_default();
    let can = facts.iter().any(|(k, v)| *k == "compat" && *v == Value::from("1.1"));
    let has = facts.iter().any(|(k, _)| *k == "bitmaps");
    Ok((can && !has).then_some(0))
}
