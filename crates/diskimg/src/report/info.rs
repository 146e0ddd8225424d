//! The result of `info`. Serializes with the keys of `qemu-img info --output=json`.

#[cfg(feature = "serde")]
use serde::Serialize;
#[cfg(feature = "serde")]
use serde::ser::{SerializeMap, Serializer};

/// Format-specific part of the information about a layer.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Details {
    /// Cluster size in bytes, if the format has clusters.
    pub cluster_size: Option<u64>,
    /// True if the image was not closed properly.
    pub dirty: bool,
    /// True if the guest's bytes are encrypted.
    pub encrypted: bool,
    /// True if the format compresses all clusters.
    pub compressed: bool,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Format-specific values, in display order.
    pub specific: Vec<(&'static str, Value)>,
    /// Names of the layer's files in `info`, and their indices in
    /// [`Layer::files`](crate::Layer::files).
    pub children: Vec<(String, usize)>,
    /// Remarks for the user.
    pub notes: Vec<String>,
}

/// A format-specific value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[cfg_attr(feature = "serde", serde(untagged))]
pub enum Value {
    /// A Boolean.
    Bool(bool),
    /// A count or a size in bytes.
    Number(u64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// Named values, in display order.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_map"))]
    Map(Vec<(&'static str, Value)>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

#[cfg(feature = "serde")]
fn as_map<S: Serializer>(pairs: &[(&'static str, Value)], out: S) -> Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

/// An internal snapshot. Serializes in the order of `qemu-img info --output=json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Snapshot {
    /// Number of executed instructions, if recorded.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub icount: Option<u64>,
    /// Time that the guest had been running: nanoseconds.
    pub vm_clock_nsec: u64,
    /// Name.
    pub name: String,
    /// Creation time: seconds since 1970-01-01 00:00:00 UTC.
    pub date_sec: u64,
    /// Creation time: nanoseconds.
    pub date_nsec: u64,
    /// Time that the guest had been running: seconds.
    pub vm_clock_sec: u64,
    /// Unique identifier.
    pub id: String,
    /// Size of the saved VM state in bytes.
    pub vm_state_size: u64,
}

/// A dirty bitmap: it has a bit for every `granularity` bytes of the disk, which is set if they were
/// written while the bitmap was enabled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Bitmap {
    /// Name.
    pub name: String,
    /// Guest bytes per bit, a power of two.
    pub granularity: u64,
    /// True if writes are recorded.
    pub enabled: bool,
    /// True if the bitmap was not stored properly, for example because a program that uses the image
    /// was killed: its contents are unknown, and it can only be removed.
    pub inconsistent: bool,
}

/// Information about one image of a chain. Serializes in the order of `qemu-img info
/// --output=json`.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Info {
    /// True if the format compresses all clusters.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_false"))]
    pub compressed: bool,
    /// Host files of the image.
    pub children: Vec<Child>,
    /// Internal snapshots.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Vec::is_empty"))]
    pub snapshots: Vec<Snapshot>,
    /// Format of the backing file as recorded in the image.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub backing_filename_format: Option<String>,
    /// Virtual disk size in bytes.
    pub virtual_size: u64,
    /// Name that the image was opened with.
    pub filename: String,
    /// Cluster size in bytes.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub cluster_size: Option<u64>,
    /// Name of the format.
    pub format: String,
    /// Number of bytes allocated in the host's file system.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub actual_size: Option<u64>,
    /// Format-specific information.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub format_specific: Option<FormatSpecific>,
    /// Path of the backing file.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub full_backing_filename: Option<String>,
    /// True if encrypted.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_false"))]
    pub encrypted: bool,
    /// Name of the backing file as recorded in the image.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub backing_filename: Option<String>,
    /// True if the image was not closed properly.
    pub dirty_flag: bool,
    /// Remarks for the user.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Vec::is_empty"))]
    pub notes: Vec<String>,
}

/// Format-specific information.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[non_exhaustive]
pub struct FormatSpecific {
    /// Name of the format.
    #[cfg_attr(feature = "serde", serde(rename = "type"))]
    pub kind: String,
    /// Values, in display order.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_map"))]
    pub data: Vec<(&'static str, Value)>,
}

/// A host file of an image.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[non_exhaustive]
pub struct Child {
    /// Name: `file`, `data-file`, `extents.0` and so on.
    pub name: String,
    /// Information about the file.
    pub info: ChildFile,
}

/// Information about a host file of an image.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct ChildFile {
    /// Always empty.
    pub children: Vec<Child>,
    /// Length of the file in bytes, rounded up to a multiple of 512, as in QEMU.
    pub virtual_size: u64,
    /// Path.
    pub filename: String,
    /// `file`, `host_device` for a block device, or the protocol by which it is read.
    pub format: &'static str,
    /// Number of bytes allocated in the host's file system.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub actual_size: Option<u64>,
    /// Always of the kind `file`, without values.
    pub format_specific: FormatSpecific,
    /// Always false.
    pub dirty_flag: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}
