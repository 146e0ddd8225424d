//! Images in Azure Blob Storage and Google Cloud Storage, on emulators, in the sandbox.

use crate::support::{Lab, Ran, diskimg};
use diskimg_testkit::stores::{Azurite, GoogleEmulator};
use std::fs;

/// Runs a command with no other variables of stores than these.
fn run(lab: &Lab, variables: &[(&str, &str)], line: &str) -> Ran {
    let mut command = lab.command(diskimg());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AZURE_")) {
        command.env_remove(name);
    }
    command.env("HOME", lab.path("home")).envs(variables.iter().copied());
    Ran::new(command.args(line.split_whitespace()).output().expect("runs"))
}

/// Returns a lab with `a.raw`, which has data and zeros.
fn lab() -> Lab {
    let lab = Lab::new();
    let bytes: Vec<u8> = (0..20_480_000u32).map(|i| (i / 1000 + i * 7) as u8).collect();
    fs::write(lab.path("a.raw"), [&bytes[..], &vec![0; 10_240_000]].concat()).expect("writes");
    lab
}

#[test]
#[ignore = "needs azurite and azure-storage-blob"]
fn commands_read_and_write_blobs() {
    let (lab, store) = (lab(), Azurite::start());
    store.client(&["create-container", "disks"]);
    let connection = store.connection();
    let variables = [("AZURE_STORAGE_CONNECTION_STRING", &*connection)];
    let run = |line: &str| run(&lab, &variables, line);
    let url = "az://disks/images/a.qcow2";
    run(&format!("convert --sandbox=require -O qcow2 a.raw {url}")).ok();
    let got = lab.path("got").display().to_string();
    store.client(&["get", "disks", "images/a.qcow2", &got]);
    lab.qemu("compare -f raw -F qcow2 a.raw got").ok();
    let info = run(&format!("info --sandbox=require {url}")).ok();
    assert!(info.contains("protocol type: az"), "{info}");
    assert!(run(&format!("compare --sandbox=require {url} a.raw")).ok().contains("identical"));
    let error = run(&format!("convert --no-clobber -O qcow2 a.raw {url}")).fails(1);
    assert!(error.contains("the blob exists already"), "{error}");
    let error = run(&format!("convert -n -O qcow2 a.raw {url}")).fails(1);
    assert!(error.contains("cannot be written in place"), "{error}");
    // The key is not sent to another server that a URL names.
    let other = format!("{url}?endpoint={}", store.endpoint().replace('/', "%2F"));
    let error = run(&format!("info {other}")).fails(1);
    assert!(error.contains("40"), "{error}");
    let error = run(&format!("info --no-private-addresses {url}")).fails(1);
    assert!(error.contains("the storage account is not known"), "{error}");
}

#[test]
#[ignore = "needs gcp-storage-emulator and google-cloud-storage"]
fn commands_read_objects_of_google() {
    let (lab, store) = (lab(), GoogleEmulator::start());
    store.client(&["create-bucket", "bucket"]);
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    store.client(&["put", "bucket", "a.qcow2", &lab.path("a.qcow2").display().to_string()]);
    let endpoint = store.endpoint();
    let variables = [("STORAGE_EMULATOR_HOST", &*endpoint)];
    let line = "compare --sandbox=require gs://bucket/a.qcow2 a.raw";
    assert!(run(&lab, &variables, line).ok().contains("identical"));
    let info = run(&lab, &variables, "info --sandbox=require gs://bucket/a.qcow2").ok();
    assert!(info.contains("protocol type: gs"), "{info}");
}
