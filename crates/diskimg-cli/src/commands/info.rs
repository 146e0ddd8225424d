//! `info`: shows the properties of images.

use crate::args::common::OutputFormat;
use crate::args::info::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};
use diskimg::Image;
use diskimg::info::Info;

/// Prints the information. Of several images, those that cannot be read are reported, and the others
/// are shown.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let rules = Rules::new().allow_time_zone();
    let inputs: Vec<_> = job.inputs.iter().collect();
    let open = || Ok(inputs.iter().map(|input| input.open(console.program())).collect());
    let opened: Vec<_> = confine::open(&rules, &inputs, open)?;
    let shown = opened.into_iter().map(|image| layers(&image?, job.chain));
    if job.inputs.len() == 1 {
        let layers = shown.collect::<Result<Vec<_>, _>>()?.concat();
        print(&layers, job, console)?;
        return Ok(0);
    }
    let (mut all, mut worst) = (Vec::new(), 0);
    for layers in shown {
        match layers {
            Ok(layers) => all.push(layers),
            Err(Failure::Error { message, code }) => {
                console.error(&message);
                worst = worst.max(code);
            }
            Err(other) => return Err(other),
        }
    }
    match job.output {
        OutputFormat::Json if job.chain => json::print(console, &all)?,
        _ => print_list(&all.concat(), job.output, console)?,
    }
    Ok(worst)
}

/// Returns the information on an image and, with `chain`, on its backing files.
fn layers(image: &Image, chain: bool) -> Result<Vec<Info>, Failure> {
    let count = if chain { image.layers().len() } else { 1 };
    Ok((0..count).map(|depth| image.info(depth)).collect::<Result<_, _>>()?)
}

/// Prints the information on one image.
fn print(layers: &[Info], job: &Job, console: &Console) -> Result<(), Failure> {
    match (job.output, layers) {
        (OutputFormat::Json, [info]) if !job.chain => json::print(console, info),
        _ => print_list(layers, job.output, console),
    }
}

fn print_list(list: &[Info], output: OutputFormat, console: &Console) -> Result<(), Failure> {
    match output {
        OutputFormat::Human => {
            let blocks: Vec<_> = list.iter().map(human::info).collect();
            console.print(&blocks.join("\n"))
        }
        OutputFormat::Json => json::print(console, &list),
    }
}
