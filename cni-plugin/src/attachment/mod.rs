//! What the plugin leaves behind for an attachment, and how others recognise it as ours.
//!
//! The host end of the link carries a name, an alias and a group. An attachment with hostPorts or
//! `ipMasq` also has a [`Record`] in [`DIRECTORY`], because the nftables elements that belong to it
//! can be taken away by any process: from the records they are made again.

mod alias;
mod comment;
mod hostports;
mod ipmasq;
mod record;
mod records;
mod tables;

pub use self::alias::Alias;
pub use self::comment::{former_owner, owner};
pub use self::hostports::{HOSTPORTS, hostports_guard, hostports_table, key_of};
pub use self::ipmasq::{IPMASQ, ipmasq_table};
pub use self::record::{HostPort, Record};
pub use self::records::{RecordError, Records, Unreadable};
pub use self::tables::{FAMILY, TableError, apply, clear, has_all, remove, remove_owned};

use podwire_kernel::nft::{Element, Key, Table};

use crate::hash::fnv1a;

/// Where the records are.
pub const DIRECTORY: &str = "/run/podwire/attachments";

/// The link group (`IFLA_GROUP`) of all host ends, so that one rule can name them all.
pub const LINK_GROUP: u32 = 112;

/// The name of the host end of the link to the interface `ifname` of the container
/// `container_id`: `veth` and the first 11 hexadecimal digits of the FNV-1a hash of both, with a
/// zero byte between them. Who knows the container can find its link, today and after an upgrade.
pub fn host_link_name(container_id: &str, ifname: &str) -> String {
    let id = container_id.bytes();
    let hash = fnv1a(id.chain([0]).chain(ifname.bytes()));
    format!("veth{:011x}", hash >> 20)
}

/// The table with these elements, each in its set, of which later ones win; `None` without any.
fn filled(
    mut table: Table,
    elements: impl Iterator<Item = (&'static str, Key, Element)>,
) -> Option<Table> {
    let mut used = false;
    for (set, key, element) in elements {
        if let Some(set) = table.sets.get_mut(set) {
            used = true;
            set.elements.insert(key, element);
        }
    }
    used.then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_link_never_changes() {
        // Links with these names exist on nodes; another name would orphan them.
        assert_eq!(host_link_name("a", "eth0"), "veth5df033ec05b");
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        assert_eq!(host_link_name(id, "eth0").len(), 15);
    }

    #[test]
    fn container_and_interface_are_kept_apart() {
        assert_ne!(host_link_name("ab", "c"), host_link_name("a", "bc"));
    }
}
