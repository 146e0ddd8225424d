//! `-boot_image` and `-append_partition`.

use super::super::draft::BootDraft;
use super::super::values::{self, Value};
use super::job::Setting;
use super::values as own;
use crate::args::recipe::HybridFiles;
use crate::failure::Failure;
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{AppendedPartition, BootEntry, Emulation};
use diskimg::partition::Guid;
use std::ffi::OsStr;

/// What happens to the boot records of the image that is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum KeepBoot {
    /// They are discarded, as by default in xorriso.
    #[default]
    Discard,
    /// They are kept, with new addresses.
    Keep,
}

/// The boot records of the new image.
#[derive(Debug, Default)]
pub(crate) struct Boot {
    pub(crate) loaded: KeepBoot,
    /// Whether `-boot_image` or `-append_partition` was given.
    given: bool,
    /// New boot entries.
    pub(crate) entries: Vec<BootEntry>,
    /// Host files for the system area.
    pub(crate) files: HybridFiles,
    /// Other settings, which apply after those of the image that is loaded.
    pub(crate) settings: Vec<Setting>,
}

/// The boot records described so far.
#[derive(Debug, Default)]
pub(super) struct BootSession {
    boot: Boot,
    draft: BootDraft,
    /// The first command that describes new boot records.
    changed: Option<String>,
}

impl Boot {
    /// Returns whether a command describes the boot records.
    pub(crate) fn is_given(&self) -> bool {
        self.given
    }
}

impl BootSession {
    /// Handles `-boot_image FAMILY ACTION`.
    pub(super) fn boot_image(&mut self, values: &[Value<'_>]) -> Result<(), Failure> {
        let family = values[0].text()?;
        let value = &values[1];
        let text = value.text()?;
        if !["any", "isolinux", "grub"].contains(&family) {
            return Err(values[0].invalid("any, isolinux or grub"));
        }
        self.boot.given = true;
        match text {
            "keep" | "replay" | "patch" => self.boot.loaded = KeepBoot::Keep,
            "discard" => self.boot.loaded = KeepBoot::Discard,
            // Printed in any case when an image is loaded.
            "show_status" => {}
            "next" => self.next()?,
            _ => {
                let (key, setting) = text.split_once('=').unwrap_or((text, ""));
                let option = format!("{} {family} {key}=", value.option);
                self.change(&option);
                let setting = Value { option: &option, arg: OsStr::new(setting) };
                self.setting(family, key, &setting)?;
            }
        }
        Ok(())
    }

    /// Handles `-append_partition`.
    pub(super) fn append_partition(&mut self, values: &[Value<'_>]) -> Result<(), Failure> {
        self.change(values[0].option);
        let (kind, gpt_kind) = values::partition_kinds(&values[1])?;
        let (number, contents) = (values[0].number()?, values[2].contents()?);
        let mut partition = AppendedPartition::with_contents(number, kind, contents);
        partition.gpt_kind = gpt_kind;
        self.set(Setting::new(move |o| o.hybrid.appended.push(partition.clone())));
        Ok(())
    }

    pub(super) fn is_given(&self) -> bool {
        self.boot.given
    }

    fn change(&mut self, command: &str) {
        self.boot.given = true;
        self.changed.get_or_insert_with(|| command.to_owned());
    }

    fn set(&mut self, setting: Setting) {
        self.boot.settings.push(setting);
    }

    /// Finishes the current boot entry.
    fn next(&mut self) -> Result<(), Failure> {
        self.boot.entries.extend(std::mem::take(&mut self.draft).entry()?);
        Ok(())
    }

    fn image(&mut self, path: &str, platform: Option<Platform>) -> Result<(), Failure> {
        self.draft.set_image(values::boot_image(path)?, platform);
        // Unlike mkisofs, xorriso emulates no disk unless requested.
        self.draft.emulation.get_or_insert(Emulation::None);
        Ok(())
    }

    fn setting(&mut self, family: &str, key: &str, value: &Value<'_>) -> Result<(), Failure> {
        match key {
            "bin_path" => self.bios_image(value.text()?)?,
            "dir" if family == "isolinux" => {
                let dir = value.text()?.trim_end_matches('/');
                self.bios_image(&format!("{dir}/isolinux.bin"))?;
                self.draft.load_sectors = Some(4);
                self.draft.info_table = true;
            }
            "efi_path" => {
                if self.draft.has_image() {
                    self.next()?;
                }
                self.image(value.text()?, Some(Platform::Efi))?;
            }
            "cat_path" => self.catalog(value.text()?),
            "cat_hidden" => {
                let visible = value.text()? == "off";
                self.set(Setting::new(move |o| o.boot_catalog_visible = visible));
            }
            "platform_id" => self.draft.set_platform(values::platform(value)?),
            "emul_type" => {
                self.draft.emulation = Some(match value.text()? {
                    "none" | "no_emulation" => Emulation::None,
                    "hard_disk" => Emulation::HardDisk,
                    "diskette" => Emulation::Floppy,
                    _ => return Err(value.invalid("no_emulation, hard_disk or diskette")),
                });
            }
            "load_size" if value.text()? == "full" => self.draft.load_sectors = None,
            "load_size" => {
                let sectors = own::bytes(value)?.div_ceil(512);
                let sectors = u16::try_from(sectors).map_err(|_| value.invalid("less than 32m"))?;
                self.draft.load_sectors = Some(sectors);
            }
            "boot_info_table" => self.draft.info_table = own::switch(value)?,
            "grub2_boot_info" => self.draft.grub2_info = own::switch(value)?,
            "partition_entry" => match value.text()? {
                "gpt_basdat" => self.draft.in_gpt = Some(Guid::BASIC_DATA),
                "gpt_hfsplus" => self.draft.in_gpt = Some(Guid::APPLE_HFS),
                "apm_hfsplus" => self.draft.in_apm = true,
                _ => return Err(value.invalid("gpt_basdat, gpt_hfsplus or apm_hfsplus")),
            },
            "id_string" => self.draft.identifier = values::boot_identifier(value)?,
            "sel_crit" => self.draft.criteria = values::selection_criteria(value)?,
            _ => return self.disk_setting(family, key, value),
        }
        Ok(())
    }

    /// Handles settings for booting from a disk.
    fn disk_setting(&mut self, family: &str, key: &str, value: &Value<'_>) -> Result<(), Failure> {
        match (key, value.text()?) {
            ("grub2_mbr", _) => self.boot.files.grub2_mbr = Some(value.contents()?),
            ("system_area", _) if family == "isolinux" => {
                self.boot.files.isohybrid_mbr = Some(value.contents()?);
            }
            ("system_area", _) => self.boot.files.system_area = Some(value.contents()?),
            ("partition_offset", _) => {
                let bytes = own::bytes(value)?;
                // Without a unit, the number counts sectors.
                let plain = value.text()?.bytes().all(|byte| byte.is_ascii_digit());
                let sectors = if plain { bytes } else { bytes.div_ceil(2048) };
                let sectors = u32::try_from(sectors).map_err(|_| value.invalid("less than 8t"))?;
                self.set(Setting::new(move |o| o.hybrid.partition_offset = sectors));
            }
            ("appended_part_as", "gpt") => {
                self.set(Setting::new(|o| o.hybrid.appended_as_gpt = true));
            }
            ("appended_part_as", "apm") => {
                self.set(Setting::new(|o| o.hybrid.appended_as_apm = true));
            }
            ("appended_part_as", "mbr") => {
                self.set(Setting::new(|o| o.hybrid.appended_as_gpt = false));
            }
            // Written with the boot code, if that is given.
            ("partition_table", "on") if family == "isolinux" => {}
            ("partition_table", _) => {
                let on = own::switch(value)?;
                self.set(Setting::new(move |o| o.hybrid.protective_label = on));
            }
            ("partition_hd_cyl", _) => {
                let heads = values::number_up_to(value, 255)?;
                self.set(Setting::new(move |o| o.hybrid.heads = heads));
            }
            ("partition_sec_hd", _) => {
                let sectors = values::number_up_to(value, 63)?;
                self.set(Setting::new(move |o| o.hybrid.sectors_per_track = sectors));
            }
            ("partition_cyl_align", _) => {
                let alignment = values::cylinder_alignment(value)?;
                self.set(Setting::new(move |o| o.hybrid.cylinder_alignment = alignment));
            }
            ("mbr_force_bootable", _) => {
                let on = own::switch(value)?;
                self.set(Setting::new(move |o| o.hybrid.force_active = on));
            }
            ("iso_mbr_part_type", _) => {
                let kind = values::volume_kind(value)?;
                self.set(Setting::new(move |o| o.hybrid.volume_kind = kind));
            }
            _ => {
                let text = value.text()?;
                return Err(Failure::not_supported(&format!("{}{text}", value.option)));
            }
        }
        Ok(())
    }

    /// Sets a BIOS boot image. By default, the catalog is in the same directory.
    fn bios_image(&mut self, path: &str) -> Result<(), Failure> {
        if self.draft.has_image() {
            self.next()?;
        }
        self.image(path, None)?;
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        if self.boot.entries.is_empty() {
            let catalog = format!("{dir}/boot.cat");
            // An explicit path comes later in the list, or replaces this one.
            let default = Setting::new(move |o| o.boot_catalog = catalog.trim_matches('/').into());
            self.boot.settings.insert(0, default);
        }
        self.draft.load_sectors.get_or_insert(4);
        Ok(())
    }

    fn catalog(&mut self, path: &str) {
        let path = path.trim_start_matches('/').to_owned();
        self.set(Setting::new(move |o| o.boot_catalog.clone_from(&path)));
    }

    pub(super) fn finish(mut self) -> Result<Boot, Failure> {
        self.next()?;
        match self.changed {
            Some(command) if self.boot.loaded == KeepBoot::Keep => Err(Failure::not_supported(
                &format!("{command} together with the boot records of the loaded image"),
            )),
            _ => Ok(self.boot),
        }
    }
}
