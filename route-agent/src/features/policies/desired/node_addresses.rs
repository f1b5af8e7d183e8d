//! Which Nodes have which addresses of a family.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podwire_kernel::IpFamily;

use crate::snapshot::{Node, Snapshot};

/// Which Nodes have which addresses.
#[derive(Debug, Default)]
pub struct NodeAddresses {
    of: HashMap<Arc<str>, Vec<IpAddr>>,
    with: HashMap<IpAddr, BTreeSet<Arc<str>>>,
}

impl NodeAddresses {
    /// The addresses of all Nodes.
    pub fn all(snapshot: &Snapshot, family: IpFamily) -> Self {
        let mut all = Self::default();
        for (name, node) in &snapshot.nodes {
            all.set(name, Some(node), family);
        }
        all
    }

    /// Takes in a Node as it is now, if it is; returns its addresses of before and now.
    pub fn set(
        &mut self,
        name: &Arc<str>,
        node: Option<&Node>,
        family: IpFamily,
    ) -> BTreeSet<IpAddr> {
        let mut touched = BTreeSet::new();
        for address in self.of.remove(name).unwrap_or_default() {
            if let Some(names) = self.with.get_mut(&address) {
                names.remove(name);
                if names.is_empty() {
                    self.with.remove(&address);
                }
            }
            touched.insert(address);
        }
        let Some(node) = node else {
            return touched;
        };
        let addresses = node.addresses();
        let addresses: Vec<_> = addresses
            .filter(|one| IpFamily::of(*one) == family)
            .collect();
        for address in &addresses {
            self.with.entry(*address).or_default().insert(name.clone());
            touched.insert(*address);
        }
        self.of.insert(name.clone(), addresses);
        touched
    }

    /// All addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.with.keys().copied()
    }

    /// The Nodes with an address.
    pub fn names(&self, address: IpAddr) -> Option<&BTreeSet<Arc<str>>> {
        self.with.get(&address)
    }
}
