//! The create options of an appliance.

use super::guest_os::GuestOs;
use crate::error::{Error, Result};
use crate::model::options::{COMPRESSION_LEVEL, OptionKind, OptionSpec, Options};
use std::path::Path;

/// The create options, in the order in which they are listed.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
    OptionSpec::new(
        "name",
        OptionKind::Text,
        "Name of the virtual machine (default: the output's name)",
    ),
    OptionSpec::new(
        "os_type",
        OptionKind::Text,
        "VMware's name of the guest operating system, such as ubuntu64Guest, debian12_64Guest or \
         windows9_64Guest",
    )
    .default("otherLinux64Guest"),
    OptionSpec::new("cpus", OptionKind::Number, "Number of virtual processors").default("1"),
    OptionSpec::new("memory", OptionKind::Size, "Memory size, a multiple of 4 MiB").default("1G"),
    OptionSpec::new("firmware", OptionKind::Text, "Firmware, can be bios or efi").default("bios"),
    OptionSpec::new(
        "adapter_type",
        OptionKind::Text,
        "Virtual disk controller type, can be one of lsilogic, buslogic or ide",
    )
    .default("lsilogic"),
    OptionSpec::new("hwversion", OptionKind::Number, "VMware virtual hardware version")
        .default("10"),
    OptionSpec::new("network", OptionKind::Switch, "Add a network adapter (E1000)").default("on"),
    COMPRESSION_LEVEL,
];

/// The type of the controllers to which the disks are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Adapter {
    LsiLogic,
    BusLogic,
    Ide,
}

/// The virtual machine of a new appliance.
#[derive(Debug)]
pub(super) struct Machine {
    /// The name: any text without control characters.
    pub(super) name: String,
    /// The name as the stem of file names.
    pub(super) stem: String,
    pub(super) os: GuestOs,
    pub(super) cpus: u64,
    pub(super) memory_mib: u64,
    pub(super) efi: bool,
    pub(super) adapter: Adapter,
    /// Virtual hardware version (the NN of `vmx-NN`).
    pub(super) hardware: u64,
    pub(super) network: bool,
    /// Compression level of the disks; `None` for the encoder's default.
    pub(super) compression_level: Option<u32>,
}

/// Maximum length of the stem of file names in bytes.
const MAX_STEM: usize = 64;

/// The name if neither the option nor the output gives one.
const DEFAULT_NAME: &str = "appliance";

/// The first virtual hardware version with EFI.
const EFI_HARDWARE: u64 = 8;

/// True for control characters and those that XML 1.0 ("Char") does not allow.
fn is_not_recordable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

impl Machine {
    /// Creates the machine from the options. `output` is the path of the appliance, if it has one.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid), naming the invalid option.
    pub(super) fn new(options: &Options, output: Option<&Path>) -> Result<Self> {
        let options = options.in_effect(OPTIONS)?;
        let text = |name: &str| options.get(name).unwrap_or_default().to_owned();
        let number = |name: &str, range: std::ops::RangeInclusive<u64>| {
            let value = options.number(name)?.unwrap_or_default();
            if range.contains(&value) {
                return Ok(value);
            }
            let (min, max) = range.into_inner();
            Err(Error::invalid(format!("{name}={value}: it must be between {min} and {max}")))
        };
        let stem = output.and_then(Path::file_stem).map(|s| s.to_string_lossy().into_owned());
        let given = Some(text("name")).filter(|name| !name.is_empty());
        let clean = |stem: String| stem.replace(is_not_recordable, "_");
        let name = given.or(stem.map(clean)).unwrap_or_else(|| DEFAULT_NAME.to_owned());
        if name.contains(is_not_recordable) || name.trim().is_empty() || name.len() > 255 {
            return Err(Error::invalid(format!("the name {name:?} cannot be recorded"))
                .hint("it must have 1 to 255 bytes and no control characters"));
        }
        let memory = options.size("memory")?.unwrap_or_default();
        if memory == 0 || !memory.is_multiple_of(4 << 20) {
            return Err(Error::invalid(format!("memory={memory}: it must be a multiple of 4 MiB")));
        }
        // 4 is the first version that supports OVF; the maximum catches typing errors.
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

    /// Returns the name in the option and in `ddb.adapterType`.
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

/// Converts a name to a file name stem that needs no quoting in archive, manifest and URI.
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
    fn the_name_is_taken_from_the_output_unless_given() {
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
    fn defaults_are_those_of_the_option_list() {
        let machine = machine("").expect("fits");
        assert_eq!((machine.cpus, machine.memory_mib, machine.hardware), (1, 1024, 10));
        assert_eq!(
            (machine.adapter, machine.efi, machine.network),
            (Adapter::LsiLogic, false, true)
        );
        assert_eq!(machine.os.name(), "otherLinux64Guest");
    }

    #[test]
    fn invalid_options_are_refused_by_name() {
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
