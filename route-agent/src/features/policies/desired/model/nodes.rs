//! The addresses of Nodes, kept while a rule asks about Nodes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podwire_kernel::IpFamily;

use super::{Model, Work};
use crate::features::policies::desired::atoms::AtomId;
use crate::features::policies::desired::frame::Changed;
use crate::snapshot::{Node, Snapshot};

/// Which Nodes have which addresses.
#[derive(Debug, Default)]
pub(super) struct NodeAddresses {
    of: HashMap<Arc<str>, Vec<IpAddr>>,
    with: HashMap<IpAddr, BTreeSet<Arc<str>>>,
}

impl NodeAddresses {
    /// Takes in a Node as it is now, if it is; returns its addresses of before and now.
    fn set(&mut self, name: &Arc<str>, node: Option<&Node>, family: IpFamily) -> BTreeSet<IpAddr> {
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
}

impl Model {
    /// Notes which addresses Nodes have now.
    pub(super) fn move_nodes(&mut self, snapshot: &Snapshot, changed: &Changed, work: &mut Work) {
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        for name in &changed.nodes {
            let node = snapshot.nodes.get(name);
            work.addresses.extend(nodes.set(name, node, self.family));
        }
    }

    /// Rules ask about Nodes now that did not, or no longer.
    pub(super) fn look_at_nodes(&mut self, snapshot: &Snapshot, work: &mut Work) {
        if !self.atoms.ask_about_nodes() {
            let nodes = self.nodes.take();
            let addresses = nodes.into_iter().flat_map(|nodes| nodes.with.into_keys());
            work.addresses.extend(addresses);
            return;
        }
        let family = self.family;
        let nodes = self.nodes.get_or_insert_with(|| {
            let mut nodes = NodeAddresses::default();
            for (name, node) in &snapshot.nodes {
                nodes.set(name, Some(node), family);
            }
            nodes
        });
        work.addresses.extend(nodes.with.keys());
    }

    /// What the Nodes with an address answer with yes, and the name of one.
    pub(super) fn node_atoms(
        &self,
        snapshot: &Snapshot,
        address: IpAddr,
    ) -> (BTreeSet<AtomId>, Option<&Arc<str>>) {
        let nodes = self.nodes.as_ref();
        let names = nodes.and_then(|nodes| nodes.with.get(&address));
        let nodes = names.into_iter().flatten();
        let nodes = nodes.filter_map(|name| snapshot.nodes.get(name));
        let atoms = nodes.flat_map(|node| self.atoms.of_node(node)).collect();
        (atoms, names.and_then(|names| names.first()))
    }
}
