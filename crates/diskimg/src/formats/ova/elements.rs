//! Which elements and attributes of a descriptor are OVF's.
//!
//! Extensions add elements and attributes in namespaces of their own, even with OVF's names. They
//! are ignored: what they say must not take the place of what OVF says. Writers differ, however, in
//! the namespace of OVF itself, and many leave it out:
//!
//! ```text
//!   VMware, VirtualBox   <Envelope xmlns="…/ovf/envelope/1"> <File ovf:href="…"/>
//!   oVirt                <ovf:Envelope xmlns:ovf="…/ovf/envelope/1/"> <File ovf:href="…"/>
//!   OVF 0.9              <Envelope xmlns="http://www.vmware.com/schema/ovf/1/envelope">
//! ```

use super::envelope::corrupt;
use crate::error::Result;
use roxmltree::Node;

/// The namespaces of OVF's versions, without a slash at the end.
const NAMESPACES: [&str; 4] = [
    "http://schemas.dmtf.org/ovf/envelope/1",
    "http://schemas.dmtf.org/ovf/envelope/2",
    "http://schemas.dmtf.org/ovf/1/envelope",
    "http://www.vmware.com/schema/ovf/1/envelope",
];

/// The namespace of `xsi:type`.
const XML_SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Returns true for the namespace of a version of OVF.
pub(super) fn is_known(uri: &str) -> bool {
    NAMESPACES.contains(&uri.strip_suffix('/').unwrap_or(uri))
}

/// The namespaces whose names are OVF's in one descriptor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ovf<'a> {
    /// The namespace of the root element, whatever it is.
    own: Option<&'a str>,
}

impl<'a> Ovf<'a> {
    /// Returns the namespaces of the descriptor with this root element.
    pub(super) fn of(root: &Node<'a, '_>) -> Self {
        Self { own: root.tag_name().namespace() }
    }

    /// Returns the namespace of the root element.
    #[cfg(feature = "inspect")]
    pub(super) fn own(self) -> Option<&'a str> {
        self.own
    }

    /// Returns true if names in this namespace are OVF's.
    pub(super) fn includes(self, namespace: Option<&str>) -> bool {
        namespace.is_none_or(|uri| self.own == Some(uri) || is_known(uri))
    }

    /// Returns the child elements that are OVF's.
    pub(super) fn children<'n, 'input>(
        self,
        node: &Node<'n, 'input>,
    ) -> impl Iterator<Item = Node<'n, 'input>> + use<'a, 'n, 'input> {
        node.children()
            .filter(move |node| node.is_element() && self.includes(node.tag_name().namespace()))
    }

    /// Returns the value of an attribute, without blanks at its ends.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the element has it twice, with and without a
    /// prefix, and the values differ: readers would choose differently.
    pub(super) fn attribute<'n>(self, node: &Node<'n, '_>, name: &str) -> Result<Option<&'n str>> {
        let mut found = None;
        let same_name = node.attributes().filter(|a| a.name() == name);
        for attribute in same_name.filter(|a| self.includes(a.namespace())) {
            let value = attribute.value().trim();
            if let Some(other) = found.filter(|&other| other != value) {
                let element = node.tag_name().name();
                let message =
                    format!("a <{element}> element has two values of {name}: '{other}', '{value}'");
                return Err(corrupt(message));
            }
            found = Some(value);
        }
        Ok(found)
    }

    /// Returns the name of a section: the element's or, in OVF 0.9, the type's.
    pub(super) fn section<'n>(self, node: &Node<'n, '_>) -> &'n str {
        let name = node.tag_name().name();
        if name != "Section" {
            return name;
        }
        let is_type = |uri: Option<&str>| uri == Some(XML_SCHEMA_INSTANCE) || self.includes(uri);
        let kind = node.attributes().find(|a| a.name() == "type" && is_type(a.namespace()));
        let kind = kind.map_or("", |a| a.value().trim());
        let kind = kind.rsplit(':').next().unwrap_or_default();
        kind.strip_suffix("_Type").unwrap_or(kind)
    }
}
