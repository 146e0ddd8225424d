//! What `-o` takes for a new appliance, and what it means.

use super::guest_os::GuestOs;
use crate::error::{Error, Result};
use crate::model::options::{COMPRESSION_LEVEL, OptionKind, OptionSpec, Options};
use std::path::Path;

/// In the order in which `create` tells them.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
    OptionSpec::new("name", OptionKind::Text, "Name of the machine (default: the output's)"),
    OptionSpec::new(
        "os_type",
        OptionKind::Text,
        "VMware's name of the guest system, as ubuntu64Guest, debian12_64Guest, windows9_64Guest",
    )
    .default("otherLinux64Guest"),
    OptionSpec::new("cpus", OptionKind::Number, "Virtual processors").default("1"),
    OptionSpec::new("memory", OptionKind::Size, "Memory, in multiples of 4 MiB").default("1G"),
    OptionSpec::new("firmware", OptionKind::Text, "Firmware, can be bios or efi").default("bios"),
    OptionSpec::new(
        "adapter_type",
        OptionKind::Text,
        "Virtual disk controller, can be one of lsilogic, buslogic or ide",
    )
    .default("lsilogic"),
    OptionSpec::new("hwversion", OptionKind::Number, "Version of VMware's virtual hardware")
        .default("10"),
    OptionSpec::new("network", OptionKind::Switch, "One network adapter (E1000)").default("on"),
    COMPRESSION_LEVEL,
];

/// Controllers that a new machine's disks hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Adapter {
    LsiLogic,
    BusLogic,
    Ide,
}

/// A new machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// As the user gave it: any text without control characters.
    pub(super) name: String,
    /// The same as the beginning of file names.
    pub(super) stem: String,
    pub(super) os: GuestOs,
    pub(super) cpus: u64,
    pub(super) memory_mib: u64,
    pub(super) efi: bool,
    pub(super) adapter: Adapter,
    /// Of `vmx-NN`.
    pub(super) hardware: u64,
    pub(super) network: bool,
    /// Of the disks; `None`: the encoder's own idea.
    pub(super) compression_level: Option<u32>,
}

/// Names of files in the archive start with at most so many bytes of the machine's.
const MAX_STEM: usize = 64;

/// The name where nothing gives one.
const NAMELESS: &str = "appliance";

/// The first virtual hardware that has EFI.
const EFI_HARDWARE: u64 = 8;

/// True for what XML 1.0 ("Char") cannot hold, and for control characters.
fn is_no_xml(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

impl Machine {
    /// `output` is where the appliance goes, if that has a name.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming the option that makes no sense.
    pub(super) fn new(options: &Options, output: Option<&Path>) -> Result<Self> {
        let options = options.in_effect(OPTIONS)?;
        let text = |name: &str| options.get(name).unwrap_or_default().to_owned();
        let number = |name: &str, range: std::ops::RangeInclusive<u64>| {
            let value = options.number(name)?.unwrap_or_default();
            if range.contains(&value) {
                return Ok(value);
            }
            let (least, most) = range.into_inner();
            Err(Error::invalid(format!("{name}={value}: {least} to {most} are possible")))
        };
        let stem = output.and_then(Path::file_stem).map(|s| s.to_string_lossy().into_owned());
        let given = Some(text("name")).filter(|name| !name.is_empty());
        let clean = |stem: String| stem.replace(is_no_xml, "_");
        let name = given.or(stem.map(clean)).unwrap_or_else(|| NAMELESS.to_owned());
        if name.contains(is_no_xml) || name.trim().is_empty() || name.len() > 255 {
            return Err(Error::invalid(format!("the name {name:?} cannot be recorded"))
                .hint("1 to 255 bytes, no line breaks"));
        }
        let memory = options.size("memory")?.unwrap_or_default();
        if memory == 0 || !memory.is_multiple_of(4 << 20) {
            return Err(Error::invalid(format!(
                "memory={memory}: multiples of 4 MiB are possible"
            )));
        }
        // The first version with OVF, and a bound for typing errors.
        let hardware = number("hwversion", 4..=99)?;
        let efi = one_of("firmware", &text("firmware"), &[("bios", false), ("efi", true)])?;
        if efi && hardware < EFI_HARDWARE {
            return Err(Error::invalid(format!(
                "firmware=efi needs hwversion={EFI_HARDWARE} or later, not {hardware}"
            )));
        }
        Ok(Self {
            stem: file_stem(&name),
            name,
            os: GuestOs::new(&text("os_type"))?,
            cpus: number("cpus", 1..=1024)?,
            memory_mib: memory >> 20,
            efi,
            adapter: one_of("adapter_type", &text("adapter_type"), &Adapter::ALL)?,
            hardware,
            compression_level: options.compression_level(9, true)?,
            network: options.switch("network")?.unwrap_or(true),
        })
    }
}

impl Adapter {
    const ALL: [(&str, Self); 3] =
        [("lsilogic", Self::LsiLogic), ("buslogic", Self::BusLogic), ("ide", Self::Ide)];

    /// As the option and `ddb.adapterType` spell it.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, adapter)| *adapter == self).map_or("", |(name, _)| name)
    }
}

fn one_of<T: Copy>(option: &str, value: &str, known: &[(&str, T)]) -> Result<T> {
    known.iter().find(|(name, _)| *name == value).map(|(_, found)| *found).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        Error::invalid(format!("Invalid parameter '{value}' for {option}"))
            .hint(format!("one of {}", names.join(", ")))
    })
}

/// A name that needs no quoting in a tar, a manifest and a URI.
fn file_stem(name: &str) -> String {
    let safe = |(i, c): (usize, char)| match c {
        c if c.is_ascii_alphanumeric() => c,
        '.' | '-' if i > 0 => c,
        _ => '_',
    };
    name.chars().take(MAX_STEM).enumerate().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(options: &str) -> Result<Machine> {
        Machine::new(&Options::parse(options)?, Some(Path::new("/x/my vm.ova")))
    }

    #[test]
    fn a_name_comes_from_the_output_unless_one_is_given() {
        let named = |options| machine(options).map(|m| (m.name, m.stem)).expect("fits");
        assert_eq!(named(""), ("my vm".into(), "my_vm".into()));
        assert_eq!(named("name=-ü/<b>"), ("-ü/<b>".into(), "___b_".replace("___", "____")));
        let nameless = Machine::new(&Options::default(), None).expect("fits");
        assert_eq!(nameless.stem, "appliance");
        let odd = Machine::new(&Options::default(), Some(Path::new("x\ny\u{fffe}.ova")));
        assert_eq!(odd.expect("fits").name, "x_y_");
        assert!(file_stem(&"x".repeat(300)).len() == MAX_STEM);
    }

    #[test]
    fn defaults_are_what_the_list_tells() {
        let machine = machine("").expect("fits");
        assert_eq!((machine.cpus, machine.memory_mib, machine.hardware), (1, 1024, 10));
        assert_eq!(
            (machine.adapter, machine.efi, machine.network),
            (Adapter::LsiLogic, false, true)
        );
        assert_eq!(machine.os.name(), "otherLinux64Guest");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (options, word) in [
            ("cpus=0", "cpus"),
            ("cpus=9999", "cpus"),
            ("memory=1000", "memory"),
            ("memory=0", "memory"),
            ("firmware=uefi", "firmware"),
            ("adapter_type=nvme", "adapter_type"),
            ("hwversion=3", "hwversion"),
            ("os_type=<x>", "os_type"),
            ("name=a\nb", "name"),
            ("name= ", "name"),
            ("name=a\u{ffff}", "name"),
            ("memory=1025M", "memory"),
            ("firmware=efi,hwversion=7", "hwversion"),
        ] {
            let error = machine(options).expect_err(options);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
