//! The rules that an untrusted descriptor must keep, so that every reader finds the same files and
//! disks in it: those that go by OVF's namespaces, by local names, by the first element or by any.
//!
//! ```text
//!   <?xml version="1.0"?>       UTF-8, stated once
//!   <Envelope xmlns="…">        one namespace for all elements, one for all attributes
//!   <References>                one section
//!     <File href="a.vmdk"/>     one value of an attribute in all namespaces, one member of this
//!   <DiskSection>               name, whether the href is decoded or not
//!     <Disk fileRef="f"/>       no element of this name elsewhere
//! ```

mod declaration;
mod namespaces;

use super::elements::Ovf;
use super::files::percent_decoded;
use super::markup;
use super::package::{Package, text_of};
use crate::error::Result;
use crate::open::limits::Limits;
use crate::report::inspection::{Code, Inspection, Role};
use encoding_rs::UTF_8;
use roxmltree::{Document, Node};
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of findings for one descriptor.
const MAX_FINDINGS: usize = 8;

const ELEMENTS: [&str; 7] =
    ["Envelope", "References", "File", "DiskSection", "Disk", "SharedDiskSection", "SharedDisk"];

const ATTRIBUTES: [&str; 11] = [
    "id",
    "href",
    "size",
    "compression",
    "chunkSize",
    "diskId",
    "fileRef",
    "capacity",
    "capacityAllocationUnits",
    "format",
    "parentRef",
];

const XML: &str = "http://www.w3.org/XML/1998/namespace";

const XINCLUDE: [&str; 2] = ["http://www.w3.org/2001/XInclude", "http://www.w3.org/2003/XInclude"];

/// Verifies the descriptor of a package, if it has one. The descriptor has been parsed before.
pub(super) fn apply(package: &Package, found: &mut Inspection) {
    let Some(descriptor) = package.descriptor() else { return };
    let limits = &package.limits;
    match text_of(descriptor, limits).and_then(|bytes| problems(&bytes, limits)) {
        Ok(problems) => {
            for problem in problems.into_iter().take(MAX_FINDINGS) {
                found.add(Code::Descriptor, None, format!("the OVF descriptor has {problem}"));
            }
        }
        Err(error) => found.unreadable(&error),
    }
    files(package, found);
}

/// Describes what readers interpret differently.
fn problems(bytes: &[u8], limits: &Limits) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let encoding = markup::encoding_of(bytes)?;
    let superset = ["windows-125", "ISO-8859-"].iter().any(|set| encoding.name().starts_with(set));
    if encoding != UTF_8 && !(superset && bytes.is_ascii()) {
        problems.push(format!("the encoding {}", encoding.name()));
    }
    problems.extend(declaration::problem(bytes));
    let mut text = markup::decode(bytes)?;
    markup::declare_prefixes(&mut text, limits);
    let document = markup::parse(&text, limits)?;
    let ovf = Ovf::of(&document.root_element());
    let known = known_elements(&document, ovf);
    problems.extend(namespaces::problems(&document, &known, ovf));
    for node in document.descendants().filter(Node::is_element) {
        if problems.len() < MAX_FINDINGS {
            element(&node, &known, ovf, &mut problems);
        }
    }
    for section in ["References", "DiskSection"] {
        let root = document.root_element();
        if ovf.children(&root).filter(|node| ovf.section(node) == section).count() > 1 {
            problems.push(format!("several <{section}> sections"));
        }
    }
    let mut ids = BTreeSet::new();
    let files = document.descendants().filter(|node| node.tag_name().name() == "File");
    let mut files = files.filter(|file| known.contains(&file.id().get()));
    if files.any(|file| ovf.attribute(&file, "id").is_ok_and(|id| !ids.insert(id))) {
        problems.push("several <File> elements with one ID, or without one".to_owned());
    }
    Ok(problems)
}

/// Returns the elements that are read.
fn known_elements(document: &Document<'_>, ovf: Ovf<'_>) -> BTreeSet<u32> {
    let root = document.root_element();
    let mut known = BTreeSet::from([root.id().get()]);
    for section in ovf.children(&root) {
        let item = match ovf.section(&section) {
            "References" => "File",
            "DiskSection" => "Disk",
            "SharedDiskSection" => "SharedDisk",
            _ => continue,
        };
        known.insert(section.id().get());
        let items = ovf.children(&section).filter(|node| node.tag_name().name() == item);
        known.extend(items.map(|node| node.id().get()));
    }
    known
}

/// Describes what is wrong with one element.
fn element(node: &Node<'_, '_>, known: &BTreeSet<u32>, ovf: Ovf<'_>, problems: &mut Vec<String>) {
    let name = node.tag_name().name();
    if node.tag_name().namespace().is_some_and(|uri| XINCLUDE.contains(&uri)) {
        problems.push("an XInclude element".to_owned());
    }
    if node.attributes().any(|a| a.name() == "base" && a.namespace() == Some(XML)) {
        problems.push("an xml:base attribute".to_owned());
    }
    if !known.contains(&node.id().get()) {
        if ELEMENTS.contains(&name) {
            problems.push(format!("a <{name}> element that only some readers take for OVF's"));
        }
        return;
    }
    let mut values = BTreeMap::new();
    for attribute in node.attributes().filter(|a| ATTRIBUTES.contains(&a.name())) {
        let value = attribute.value();
        let differs = values.insert(attribute.name(), value).is_some_and(|other| other != value);
        if differs || !ovf.includes(attribute.namespace()) {
            let attribute = attribute.name();
            problems.push(format!("a <{name}> with another {attribute} for some readers"));
        }
        if value.trim() != value {
            problems.push(format!("a <{name}> whose {} has blanks at an end", attribute.name()));
        }
    }
}

/// Verifies that every file's name denotes one member of the archive, however it is resolved.
fn files(package: &Package, found: &mut Inspection) {
    let files = package.files();
    let mut count = 0;
    for href in package.listed() {
        let message = match files.name(href) {
            Err(error) => {
                found.add_reference(Role::File, href, None);
                (Code::Extents, error.without_remedy())
            }
            Ok(_) if members_of(package, href) > 1 => {
                let message = format!("'{href}' is another file to some readers");
                (Code::Descriptor, message)
            }
            Ok(_) => continue,
        };
        count += 1;
        if count <= MAX_FINDINGS {
            found.add(message.0, None, message.1);
        }
    }
    for disk in package.disks() {
        let file = package.file_of(disk).filter(|file| file.chunk.is_some());
        if let Some(file) = file.filter(|file| files.member(&file.href).is_some()) {
            let message = format!("'{}' is both a member and divided into chunks", file.href);
            found.add(Code::Descriptor, None, message);
        }
    }
}

/// Returns the number of members that a name may denote: as written, decoded, without fragment and
/// query, with slashes instead of backslashes, relative to the archive, and without directories.
fn members_of(package: &Package, href: &str) -> usize {
    let Some(archive) = package.files().archive() else { return 0 };
    let path = href.split(['#', '?']).next().unwrap_or_default();
    let mut spellings = Vec::new();
    for text in [href, path] {
        spellings.extend([text.to_owned(), percent_decoded(text)]);
    }
    for index in 0..spellings.len() {
        spellings.push(spellings[index].replace('\\', "/"));
    }
    for index in 0..spellings.len() {
        let last = spellings[index].rsplit('/').next().unwrap_or_default().to_owned();
        spellings.push(last);
    }
    let members = spellings.iter().flat_map(|name| {
        [package.files().member(name), archive.find(&super::archive::normal_name(name))]
    });
    members.flatten().map(|member| &*member.name).collect::<BTreeSet<_>>().len()
}
