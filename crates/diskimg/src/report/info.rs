//! What `info` tells about an image.
//!
//! The serialised form has the keys of `qemu-img info --output=json`, which
//! programs parse.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// What one layer says about itself beyond its name and size.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// Bytes the format allocates at a time, where it does.
    pub cluster_size: Option<u64>,
    /// The image was not closed properly.
    pub dirty: bool,
    /// The guest's bytes are encrypted.
    pub encrypted: bool,
    /// Every unit is compressed by the format's nature.
    pub compressed: bool,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// The format's own facts, in display order.
    pub specific: Vec<(&'static str, Value)>,
    /// The files the layer reads: the name `info` gives each and its index in
    /// [`Layer::files`](crate::Layer::files).
    pub children: Vec<(String, usize)>,
    /// Sentences that a person should read.
    pub notes: Vec<String>,
}

/// A format's own fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A count or a size in bytes.
    Number(u64),
    /// Text.
    Text(String),
    /// Several.
    List(Vec<Value>),
    /// Named facts, in display order.
    #[serde(serialize_with = "as_map")]
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

fn as_map<S: Serializer>(pairs: &[(&'static str, Value)], out: S) -> Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Snapshot {
    /// Unique identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// When it was taken: seconds since 1970, UTC.
    pub date_sec: u64,
    /// When it was taken: nanoseconds.
    pub date_nsec: u64,
    /// Seconds the guest had run.
    pub vm_clock_sec: u64,
    /// Nanoseconds the guest had run.
    pub vm_clock_nsec: u64,
    /// Instructions executed, where recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<u64>,
}

/// Everything `info` shows of one image.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    /// The files below.
    pub children: Vec<Child>,
    /// Internal snapshots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
    /// Name of the backing file as the image holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// Where that name leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The format the image claims for its backing file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Guest bytes.
    pub virtual_size: u64,
    /// The name it was opened by.
    pub filename: String,
    /// Bytes the format allocates at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The format's name.
    pub format: String,
    /// Bytes occupied on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// True if encrypted.
    #[serde(skip_serializing_if = "is_false")]
    pub encrypted: bool,
    /// True if everything is compressed.
    #[serde(skip_serializing_if = "is_false")]
    pub compressed: bool,
    /// The format's own facts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<FormatSpecific>,
    /// The image was not closed properly.
    pub dirty_flag: bool,
    /// Sentences that a person should read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A format's own facts.
#[derive(Debug, Clone, Serialize)]
pub struct FormatSpecific {
    /// The format's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// The facts, in display order.
    #[serde(serialize_with = "as_map")]
    pub data: Vec<(&'static str, Value)>,
}

/// A file that the image consists of.
#[derive(Debug, Clone, Serialize)]
pub struct Child {
    /// "file", "data-file", "extents.0", …
    pub name: String,
    /// What is known of it.
    pub info: ChildFile,
}

/// What is known of a file below an image.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChildFile {
    /// Always empty: a file stands on nothing further.
    pub children: Vec<Child>,
    /// The file's length, in bytes: whole sectors of 512, as QEMU counts.
    pub virtual_size: u64,
    /// Its path.
    pub filename: String,
    /// "file", or "host_device" for a block device.
    pub format: &'static str,
    /// Bytes occupied on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// Always "file" and nothing more.
    pub format_specific: FormatSpecific,
    /// Always false.
    pub dirty_flag: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}
