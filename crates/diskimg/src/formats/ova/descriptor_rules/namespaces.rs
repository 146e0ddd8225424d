//! The namespaces of OVF in a descriptor. Readers know one of them, or none: names of OVF in several
//! namespaces are other files and disks to each of these.
//!
//! ```text
//!   VMware, VirtualBox   everything in the namespace of the root element
//!   oVirt                the root element and all attributes; the other elements are in none
//! ```

use super::super::elements::{self, Ovf};
use super::ATTRIBUTES;
use roxmltree::{Document, Node};
use std::collections::BTreeSet;

/// The namespace of OVF 0.9, in which sections are elements `Section` with a type.
const TYPED_SECTIONS: &str = "http://www.vmware.com/schema/ovf/1/envelope";

/// Describes what readers that know one namespace interpret differently. `known` are the elements
/// that this library reads.
pub(super) fn problems(
    document: &Document<'_>,
    known: &BTreeSet<u32>,
    ovf: Ovf<'_>,
) -> Vec<String> {
    let root = document.root_element();
    let own = ovf.own();
    let mut problems = Vec::new();
    if let Some(uri) = own.filter(|uri| !elements::is_known(uri)) {
        problems.push(format!("a root element in the namespace '{uri}', which is not OVF's"));
    }
    let known = document.descendants().filter(|node| known.contains(&node.id().get()));
    let known: Vec<_> = known.collect();
    let namespaces = known.iter().filter(|node| **node != root);
    let namespaces: BTreeSet<_> = namespaces.map(|node| node.tag_name().namespace()).collect();
    if namespaces.len() > 1 || namespaces.iter().any(|uri| uri.is_some() && *uri != own) {
        problems.push("elements in several namespaces of OVF".to_owned());
    }
    let attributes = known.iter().flat_map(Node::attributes);
    let attributes = attributes.filter(|attribute| ATTRIBUTES.contains(&attribute.name()));
    let attributes: BTreeSet<_> = attributes.map(|attribute| attribute.namespace()).collect();
    // Attributes without a prefix are in no namespace, whatever the default is.
    if attributes.len() > 1 || own.is_some() && attributes.iter().any(|uri| *uri != own) {
        let message = "attributes in another namespace than its root element, or without a prefix";
        problems.push(message.to_owned());
    }
    if known.iter().any(|node| is_unknown_section(node)) {
        problems.push("a <Section> element that only some readers take for OVF's".to_owned());
    }
    problems
}

/// Returns true for a section whose type states what it is, where readers expect its name to.
fn is_unknown_section(node: &Node<'_, '_>) -> bool {
    let types = node.attributes().filter(|attribute| attribute.name() == "type");
    let namespace = node.tag_name().namespace();
    let is_typed = namespace.is_none_or(|uri| uri == TYPED_SECTIONS);
    node.tag_name().name() == "Section" && (!is_typed || types.count() > 1)
}
